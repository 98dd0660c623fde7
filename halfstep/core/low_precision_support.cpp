#include "halfstep/core/low_precision_support.h"

#include "halfstep/core/cuda_info.h"
#include "halfstep/core/device.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"

#include <algorithm>
#include <chrono>
#include <initializer_list>
#include <iomanip>
#include <limits>
#include <sstream>

#include <ATen/core/grad_mode.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ScopeExit.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <torch/cuda.h>

namespace halfstep {

namespace {

bool cpu_has_any(std::initializer_list<const char*> instructions) {
  const auto capabilities = at::cpu::get_cpu_capabilities();
  return std::any_of(instructions.begin(), instructions.end(), [&](const char* name) {
    const auto found = capabilities.find(name);
    return found != capabilities.end() && found->second.toBool();
  });
}

double product_seconds(c10::Device device, c10::ScalarType dtype) {
  const auto matrix = at::ones({256, 256}, at::TensorOptions(device).dtype(dtype));
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 4; ++i) {  // the first one warms up
    const auto start = std::chrono::steady_clock::now();
    at::mm(matrix, matrix);
    if (device.is_cuda()) torch::cuda::synchronize(device.index());
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

LowPrecisionSupport low_precision_support(c10::Device device) {
  if (device.is_cpu())
    return {"this CPU", cpu_has_any({"avx512_fp16", "amx_fp16"}),
            cpu_has_any({"avx512_bf16", "amx_bf16"})};
  HALFSTEP_CHECK_USAGE(device.is_cuda(), "device", "a device must be a CPU or CUDA one, but got ",
                       device, "; use one of these");
  const int major = detail::cuda_major_capability(device.index());
  return {describe_device(device), major >= 7, major >= 8};
}

double measure_product_cost(c10::Device device, c10::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  // Rehearsals live there.
  const auto restore = c10::make_scope_exit([state = c10::ThreadLocalDebugInfo::current()] {
    c10::ThreadLocalDebugInfo::_forceCurrentDebugInfo(state);
  });
  c10::ThreadLocalDebugInfo::_forceCurrentDebugInfo(nullptr);
  const double in_float32 = product_seconds(device, c10::kFloat);
  return product_seconds(device, dtype) / in_float32;
}

std::string missing_support_notice(const LowPrecisionSupport& support, c10::ScalarType dtype,
                                   double cost) {
  if (support.has(dtype)) return "";
  std::ostringstream text;
  text << support.device << " has no instructions for " << dtype_name(dtype)
       << " products: one takes " << std::setprecision(2) << cost
       << " times as long as in float32 (measured); ";
  if (support.float16 || support.bfloat16) {
    text << "it has them for " << (support.float16 ? "float16" : "bfloat16");
  } else {
    text << "expect less memory, not more speed";
  }
  return text.str();
}

std::string missing_support_notice(c10::Device device, c10::ScalarType dtype) {
  const auto support = low_precision_support(device);
  if (support.has(dtype)) return "";
  return missing_support_notice(support, dtype, measure_product_cost(device, dtype));
}

}  // namespace halfstep
