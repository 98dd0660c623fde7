#include "halfstep/inspect/gradient_exponents.h"

#include "halfstep/core/error.h"

#include <cmath>
#include <limits>

#include <torch/torch.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep::inspect {

using ::testing::HasSubstr;

class GradientExponentsOn : public testing::DeviceTest {};
HALFSTEP_ON_EACH_DEVICE(GradientExponentsOn);

TEST_P(GradientExponentsOn, CountByExponentWithTheScaleTakenOff) {
  const auto inf = std::numeric_limits<float>::infinity();
  const auto gradient = torch::tensor(
      {1.0F, -1.5F, 1.99F, 0.5F, 0.0F, -0.0F, std::ldexp(1.0F, -30), inf, NAN}, device());
  GradientExponents exponents;
  exponents.add(gradient);
  EXPECT_EQ(exponents.elements(), 9);
  EXPECT_EQ(exponents.zeros(), 2);
  EXPECT_EQ(exponents.non_finite(), 2);
  EXPECT_EQ(exponents.count(0), 3);
  EXPECT_EQ(exponents.count(-1), 1);
  EXPECT_EQ(exponents.count(-30), 1);
  EXPECT_EQ(exponents.largest(), 0);
  exponents.add(gradient.slice(0, 0, 1), 1024);
  EXPECT_EQ(exponents.count(-10), 1);
  exponents.add({});
  exponents.add(torch::zeros({0}, device()));
  EXPECT_EQ(exponents.elements(), 10);
  // bfloat16's own exponents are float32's.
  GradientExponents others;
  others.add(torch::full({3}, 3e-20, device()).to(torch::kBFloat16));
  EXPECT_EQ(others.count(std::ilogb(3e-20)), 3);
}

TEST(GradientExponents, SharesAreThoseThatFloat16Makes) {
  torch::manual_seed(1);
  const auto gradient = torch::randn({20000}) * torch::exp2(torch::randint(-40, 0, {20000}));
  GradientExponents exponents;
  exponents.add(gradient);
  for (const double scale : {1.0, 256.0, 65536.0}) {
    // Exponents alone are counted: numbers from half the smallest one on round up to it, but for
    // those of just that size.
    const auto half = (gradient * scale).to(torch::kHalf);
    const double lost = (half == 0).sum().item<double>() / 20000;
    EXPECT_NEAR(exponents.share_lost(torch::kHalf, scale), lost, 1e-3) << scale;
    const double weak = ((half != 0) & (half.abs() < 6.1035e-5)).sum().item<double>() / 20000;
    EXPECT_NEAR(exponents.share_weakened(torch::kHalf, scale), weak, 2e-3) << scale;
  }
  EXPECT_GT(exponents.share_lost(torch::kHalf, 1), 0.3);
  EXPECT_EQ(exponents.share_lost(torch::kBFloat16, 1), 0);
}

TEST(GradientExponents, RecommendTheLargestScaleWithHeadroom) {
  GradientExponents exponents;
  EXPECT_FALSE(exponents.recommended_scale());
  EXPECT_EQ(exponents.share_lost(torch::kHalf, 1), 0);
  exponents.add(torch::tensor({0.75F, 1e-6F}));
  ASSERT_TRUE(exponents.recommended_scale());
  EXPECT_EQ(*exponents.recommended_scale(0), 32768);
  EXPECT_EQ(*exponents.recommended_scale(), 8192);
  EXPECT_TRUE(std::isfinite((torch::tensor(0.75F) * 32768).to(torch::kHalf).item<float>()));
}

TEST(GradientExponents, PrintAsBars) {
  GradientExponents exponents;
  exponents.add(torch::tensor({1.0F, 2.0F, 3.0F, std::ldexp(1.0F, -30)}));
  const auto text = exponents.text(1024);
  EXPECT_THAT(text, HasSubstr("4 gradients, 0 of them 0, 0 not finite; the others by size:\n"));
  EXPECT_THAT(text, HasSubstr("  2^0    to 2^4     75.00 % ##############################\n"));
  EXPECT_THAT(text, HasSubstr("  2^-32  to 2^-28   25.00 % ##########\n"));
  EXPECT_THAT(text, HasSubstr("  float16 without a loss scale: 25 % become 0, 0 % lose bits\n"));
  EXPECT_THAT(text, HasSubstr("  float16 at the loss scale 2^10: 0 % become 0, 25 % lose bits\n"));
  EXPECT_THAT(text, HasSubstr("  float16 at the recommended 2^11: "));
}

TEST(GradientExponents, RefuseWhatTheyCantCount) {
  GradientExponents exponents;
  EXPECT_ERROR(exponents.add(torch::ones({2}, torch::kLong)), UsageError,
               "[GradientExponents::add] gradient must have a floating-point dtype", "Long");
  EXPECT_ERROR(exponents.add(torch::ones({2}), 0), UsageError,
               "[GradientExponents::add] scale must be finite and above 0, but got 0");
  EXPECT_ERROR(exponents.share_lost(torch::kFloat, 1), UsageError,
               "[GradientExponents] dtype must be float16 or bfloat16, but got Float");
}

}  // namespace halfstep::inspect
