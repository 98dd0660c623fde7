#include "halfstep/nn/attention.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"

#include <array>
#include <limits>
#include <string>

#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/function.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/thread_count.h"
#include "tests/support/tolerance.h"

namespace halfstep {
namespace {

struct Result {
  torch::Tensor output;
  std::array<torch::Tensor, 3> gradients;
  bool ours;
};

using Op = torch::Tensor (*)(const torch::Tensor&, const torch::Tensor&, const torch::Tensor&,
                             bool);

torch::Tensor stock(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                    bool is_causal) {
  return at::scaled_dot_product_attention(q, k, v, {}, 0.0, is_causal);
}

std::array<torch::Tensor, 3> inputs(at::IntArrayRef sizes, c10::Device device) {
  torch::manual_seed(7);
  const auto n = sizes[0], heads = sizes[1], t = sizes[2], d = sizes[3];
  // As a network has them: views of one product's result.
  const auto qkv = torch::randn({n, t, 3, heads, d}, device).permute({2, 0, 3, 1, 4}).unbind(0);
  return {qkv[0], qkv[1], qkv[2]};
}

Result run(Op op, const std::array<torch::Tensor, 3>& values, c10::ScalarType dtype, bool is_causal,
           bool autocast = false) {
  std::array<torch::Tensor, 3> x;
  for (size_t i = 0; i < 3; ++i)
    x[i] = values[i].detach().to(autocast ? torch::kFloat : dtype).requires_grad_();
  torch::Tensor output;
  {
    const Autocast region(
        AutocastOptions(x[0].device().type()).enabled(autocast).dtype(torch::kBFloat16));
    output = op(x[0], x[1], x[2], is_causal);
  }
  const std::string name = output.grad_fn()->name();
  torch::manual_seed(8);
  const auto weights = torch::randn(output.sizes(), output.options().dtype(torch::kFloat));
  output.backward(weights.to(output.scalar_type()));
  return {output.detach(),
          {x[0].grad(), x[1].grad(), x[2].grad()},
          name.find("Attention") != std::string::npos &&
              name.find("ScaledDotProduct") == std::string::npos};
}

double relative_error(const torch::Tensor& got, const torch::Tensor& expected) {
  const auto a = got.cpu().to(torch::kDouble), b = expected.cpu().to(torch::kDouble);
  return ((a - b).norm() / b.norm()).item<double>();
}

class Attention : public testing::DeviceTest {
 protected:
  bool expects_ours() const { return device().is_cpu() && nn::detail::cpu_multiplies_bfloat16(); }
};

}  // namespace

TEST_P(Attention, IsAsAccurateAsLibTorchs) {
  for (const auto& sizes : std::vector<std::vector<int64_t>>{{16, 4, 128, 64},
                                                             {2, 3, 1, 8},
                                                             {1, 2, 7, 16},
                                                             {3, 2, 300, 32},
                                                             {2, 1, 64, 6},
                                                             {2, 2, 65, 80},
                                                             {1, 1, 512, 24}}) {
    for (const bool is_causal : {false, true}) {
      for (const double size : {1.0, 4.0}) {  // the softmax of large scores is sharp
        SCOPED_TRACE(::testing::PrintToString(sizes) + (is_causal ? " causal, " : ", ") +
                     std::to_string(size));
        auto values = inputs(sizes, device());
        for (auto& value : values) value = (value * size).to(torch::kBFloat16);
        const auto got = run(nn::scaled_dot_product_attention, values, torch::kBFloat16, is_causal);
        const auto theirs = run(stock, values, torch::kBFloat16, is_causal);
        const auto exact = run(stock, values, torch::kDouble, is_causal);
        EXPECT_EQ(got.ours, expects_ours());
        EXPECT_EQ(got.output.strides(), theirs.output.strides());
        EXPECT_LT(relative_error(got.output, exact.output),
                  1.1 * relative_error(theirs.output, exact.output) + 1e-4);
        for (size_t i = 0; i < 3; ++i) {
          EXPECT_EQ(got.gradients[i].scalar_type(), torch::kBFloat16);
          // One position attends to itself alone: the gradients of query and key are 0.
          if (sizes[2] == 1 && i < 2)
            EXPECT_LT(got.gradients[i].abs().max().item<double>(), 1e-2 * size * size);
          else
            EXPECT_LT(relative_error(got.gradients[i], exact.gradients[i]),
                      1.2 * relative_error(theirs.gradients[i], exact.gradients[i]) + 1e-3)
                << i;
        }
      }
    }
  }
}

TEST_P(Attention, IsLibTorchsElsewhere) {
  const struct {
    std::vector<int64_t> sizes;
    c10::ScalarType dtype;
  } cases[] = {{{2, 2, 16, 8}, torch::kFloat},
               {{2, 2, 16, 8}, torch::kDouble},
               {{1, 2, 16, 7}, torch::kBFloat16},
               {{1, 2, 2049, 8}, torch::kBFloat16}};
  for (const auto& c : cases) {
    const auto values = inputs(c.sizes, device());
    const auto got = run(nn::scaled_dot_product_attention, values, c.dtype, true);
    const auto same = run(stock, values, c.dtype, true);
    EXPECT_FALSE(got.ours);
    testing::expect_same_bits(got.output, same.output);
    for (size_t i = 0; i < 3; ++i) testing::expect_same_bits(got.gradients[i], same.gradients[i]);
  }
}

TEST_P(Attention, IsTheSameWithoutGradientsAndForAnyNumberOfThreads) {
  const auto values = inputs({2, 2, 100, 8}, device());
  const auto expected = run(nn::scaled_dot_product_attention, values, torch::kBFloat16, true);
  const testing::ThreadCount one(1);
  const auto got = run(nn::scaled_dot_product_attention, values, torch::kBFloat16, true);
  testing::expect_same_bits(got.output, expected.output);
  for (size_t i = 0; i < 3; ++i) testing::expect_same_bits(got.gradients[i], expected.gradients[i]);
  const torch::NoGradGuard no_grad;
  std::array<torch::Tensor, 3> x;
  for (size_t i = 0; i < 3; ++i) x[i] = values[i].to(torch::kBFloat16);
  testing::expect_same_bits(nn::scaled_dot_product_attention(x[0], x[1], x[2], true),
                            expected.output);
}

TEST_P(Attention, NonfiniteNumbersReachWhatSeesThem) {
  // LibTorch's own multiply what is masked by 0.
  if (!expects_ours())
    GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: attention is LibTorch's on this device";
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (size_t which = 0; which < 3; ++which) {
      SCOPED_TRACE(std::to_string(bad) + " in " + std::to_string(which));
      const auto values = inputs({1, 2, 100, 8}, device());
      values[which][0][0].select(0, 70).fill_(bad);
      const auto got = run(nn::scaled_dot_product_attention, values, torch::kBFloat16, true);
      const auto finite = got.output.isfinite().all(-1);
      EXPECT_TRUE(finite[0][1].all().item<bool>());
      EXPECT_TRUE(finite[0][0].slice(0, 0, 64).all().item<bool>());
      EXPECT_FALSE(finite[0][0][70].item<bool>());
      // Query 70 alone meets itself; key and value 70 are seen by all later ones.
      if (which > 0) {
        EXPECT_FALSE(finite[0][0].slice(0, 71).any().item<bool>());
      }
      // What a value is does not matter for its own gradient.
      EXPECT_FALSE(got.gradients[which == 2 ? 0 : which].isfinite().all().item<bool>());
    }
  }
}

TEST_P(Attention, TakesGradientsThatLieOtherwise) {
  auto values = inputs({2, 2, 33, 8}, device());
  std::array<torch::Tensor, 3> x;
  for (size_t i = 0; i < 3; ++i) x[i] = values[i].to(torch::kBFloat16).requires_grad_();
  const auto gradient = [&](const torch::Tensor& weights) {
    const auto output = nn::scaled_dot_product_attention(x[0], x[1], x[2], true);
    x[0].mutable_grad() = torch::Tensor();
    output.backward(weights);
    return x[0].grad();
  };
  const auto weights = torch::randn({2, 2, 33, 8}, device()).to(torch::kBFloat16);
  const auto expected = gradient(weights);
  testing::expect_same_bits(gradient(weights.transpose(2, 3).contiguous().transpose(2, 3)),
                            expected);
  const auto ones = torch::ones({1, 1, 1, 1}, weights.options());
  testing::expect_same_bits(gradient(ones.expand(weights.sizes())),
                            gradient(torch::ones_like(weights)));
}

TEST_P(Attention, AutocastCastsItsInputs) {
  const auto values = inputs({2, 2, 16, 8}, device());
  const auto got = run(nn::scaled_dot_product_attention, values, torch::kFloat, true, true);
  const auto same = run(stock, values, torch::kFloat, true, true);
  EXPECT_EQ(got.ours, expects_ours());
  EXPECT_EQ(got.output.scalar_type(), torch::kBFloat16);
  EXPECT_LT(relative_error(got.output, same.output), 5e-3);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(got.gradients[i].scalar_type(), torch::kFloat);
    EXPECT_LT(relative_error(got.gradients[i], same.gradients[i]), 2e-2);
  }
}

TEST_P(Attention, TakesKeysOfAnotherLength) {
  const auto q = torch::randn({2, 2, 3, 8}, device()).to(torch::kBFloat16).requires_grad_();
  const auto k = torch::randn({2, 2, 5, 8}, device()).to(torch::kBFloat16);
  testing::expect_same_bits(nn::scaled_dot_product_attention(q, k, k), stock(q, k, k, false));
}

HALFSTEP_ON_EACH_DEVICE(Attention);

TEST(AttentionOnCpu, RefusesDoubleBackward) {
  if (!nn::detail::cpu_multiplies_bfloat16())
    GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: this CPU does not multiply bfloat16";
  const auto q = torch::randn({1, 1, 4, 8}, torch::kBFloat16).requires_grad_();
  const auto sum = nn::scaled_dot_product_attention(q, q, q).sum();
  EXPECT_ERROR(sum.backward({}, /*retain_graph=*/true, /*create_graph=*/true), UsageError,
               "[scaled_dot_product_attention] backward must be called without create_graph");
}

}  // namespace halfstep
