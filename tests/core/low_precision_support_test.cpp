#include "halfstep/core/low_precision_support.h"

#include "halfstep/core/error.h"

#include <ATen/cpu/Utils.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep {

namespace {

TEST(LowPrecisionSupport, IsAnnouncedWhereItIsMissing) {
  const LowPrecisionSupport old_cpu{"this CPU", false, false};
  EXPECT_EQ(missing_support_notice(old_cpu, c10::kBFloat16, 3.14159),
            "this CPU has no instructions for bfloat16 products: one takes 3.1 times as long as in "
            "float32 (measured); expect less memory, not more speed");
  const LowPrecisionSupport turing{"cuda:0 (Tesla T4, compute capability 7.5)", true, false};
  EXPECT_EQ(missing_support_notice(turing, c10::kBFloat16, 2),
            "cuda:0 (Tesla T4, compute capability 7.5) has no instructions for bfloat16 products: "
            "one takes 2 times as long as in float32 (measured); it has them for float16");
}

TEST(LowPrecisionSupport, SaysNothingWhereItIsThere) {
  const LowPrecisionSupport turing{"cuda:0", true, false};
  EXPECT_EQ(missing_support_notice(turing, c10::kHalf, 0.2), "");
  const LowPrecisionSupport new_cpu{"this CPU", false, true};
  EXPECT_EQ(missing_support_notice(new_cpu, c10::kBFloat16, 0.2), "");
  EXPECT_FALSE(new_cpu.has(c10::kFloat));
}

TEST(LowPrecisionSupport, OfThisCpuIsWhatLibTorchReports) {
  const auto support = low_precision_support(c10::kCPU);
  auto capabilities = at::cpu::get_cpu_capabilities();
  const auto has = [&](const char* name) {
    return capabilities.contains(name) && capabilities.at(name).toBool();
  };
  EXPECT_EQ(support.bfloat16, has("avx512_bf16") || has("amx_bf16"));
  EXPECT_EQ(support.float16, has("avx512_fp16") || has("amx_fp16"));
}

TEST(LowPrecisionSupport, OtherDevicesAreRefused) {
  EXPECT_ERROR(low_precision_support(c10::kMeta), UsageError, "[device]", "but got meta");
}

class ProductCost : public testing::DeviceTest {};
HALFSTEP_ON_EACH_DEVICE(ProductCost);

TEST_P(ProductCost, IsARatioOfTimes) {
  for (const auto dtype : {c10::kHalf, c10::kBFloat16}) {
    const double cost = measure_product_cost(device(), dtype);
    EXPECT_GT(cost, 0.005);
    EXPECT_LT(cost, 5000);
  }
  EXPECT_NO_THROW(low_precision_support(device()));
}

}  // namespace

}  // namespace halfstep
