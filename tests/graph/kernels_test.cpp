// Kernels of our own in replays: the bits of LibTorch's, and where they are chosen.
#include "halfstep/core/low_precision_support.h"
#include "halfstep/graph.h"
#include "halfstep/graph/kernels/gelu_kernels.h"

#include <cstring>
#include <sstream>
#include <string>

#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/graph/steps.h"
#include "tests/support/thread_count.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::testing::same_bits;
using halfstep::testing::ThreadCount;
using torch::Tensor;

Tensor ours(const Tensor& grad, const Tensor& x) {
  return halfstep::detail::gelu_backward_op().typed<Tensor(const Tensor&, const Tensor&)>().call(
      grad, x);
}

bool equal_bytes(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0;
}

/// Where CPUs round otherwise, as those without AVX-512, no graph chooses it.
bool is_never_chosen() {
  return !halfstep::detail::gelu_backward_has_same_bits() &&
         !halfstep::low_precision_support(c10::kCPU).bfloat16;
}

TEST(GeluBackward, HasTheBitsOfLibTorchs) {
  if (is_never_chosen())
    GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: LibTorch's kernel for this CPU rounds otherwise "
                    "than others";
  ASSERT_TRUE(halfstep::detail::gelu_backward_has_same_bits()) << "no graph would choose it here";
  torch::manual_seed(2);
  for (const int threads : {1, 2}) {
    const ThreadCount guard(threads);
    for (const int64_t size : {2, 3, 15, 16, 17, 1000, 16384, 16385, 100003}) {
      const auto x = (torch::randn({size}) * 3).to(torch::kBFloat16);
      const auto grad = torch::randn({size}).to(torch::kBFloat16);
      EXPECT_TRUE(equal_bytes(at::gelu_backward(grad, x), ours(grad, x))) << size;
    }
  }
  // What is not finite, and the smallest.
  const auto x =
      torch::tensor({INFINITY, -INFINITY, NAN, 0.0F, -0.0F, 1e-40F, -1e-40F, 3e38F, -9.5F})
          .to(torch::kBFloat16);
  for (const float value : {1.0F, -2.0F, 1e-40F, 3e38F, INFINITY}) {
    const auto grad = torch::full_like(x, value);
    EXPECT_TRUE(equal_bytes(at::gelu_backward(grad, x), ours(grad, x))) << value;
  }
  EXPECT_EQ(ours(x.slice(0, 0, 0), x.slice(0, 0, 0)).numel(), 0);
}

struct Gelu : Graph<Tensor(Tensor)> {
  Gelu(c10::ScalarType its_dtype, std::string its_approximation, bool its_transposed)
      : weight(register_parameter("weight", torch::randn({6, 8}).to(its_dtype))),
        approximation(std::move(its_approximation)),
        transposed(its_transposed) {}
  Tensor build(const Tensor& x) override {
    const auto product = x * weight;
    const auto y = at::gelu(transposed ? product.t() : product, approximation);
    (y * y).sum().backward();
    return x.sum();
  }
  Tensor weight;
  std::string approximation;
  bool transposed;
};

struct Outcome {
  Tensor gradient;
  std::string log;
};

Outcome run(c10::ScalarType dtype, const std::string& approximation, bool transposed, bool chosen) {
  torch::manual_seed(3);
  Gelu gelu(dtype, approximation, transposed);
  gelu.config().enable_pass("choose_kernels", chosen).check_replays();
  std::ostringstream log;
  gelu.debug(1, log);
  for (int i = 0; i < 4; ++i) {
    gelu.weight.mutable_grad() = Tensor();
    gelu(torch::randn({6, 8}).to(dtype));
  }
  EXPECT_EQ(gelu.replayed_steps(), 2);
  return {gelu.weight.grad(), log.str()};
}

TEST(ChooseKernels, TakesOursForBFloat16AndKeepsTheBits) {
  if (is_never_chosen())
    GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: LibTorch's kernel for this CPU rounds otherwise "
                    "than others";
  const auto chosen = run(torch::kBFloat16, "none", false, true);
  EXPECT_THAT(chosen.log, ::testing::HasSubstr("choose_kernels gave 1 calls a kernel"));
  EXPECT_THAT(chosen.log, ::testing::HasSubstr("halfstep::gelu_backward("));
  const auto stock = run(torch::kBFloat16, "none", false, false);
  EXPECT_EQ(stock.log.find("choose_kernels"), std::string::npos);
  EXPECT_GT(stock.gradient.abs().max().item<float>(), 0);
  EXPECT_TRUE(same_bits({chosen.gradient}, {stock.gradient}));
}

TEST(ChooseKernels, LeavesWhatItHasNoKernelFor) {
  for (const auto& [dtype, approximation, transposed] :
       {std::tuple(torch::kFloat32, "none", false), std::tuple(torch::kBFloat16, "tanh", false),
        std::tuple(torch::kBFloat16, "none", true)})
    EXPECT_THAT(run(dtype, approximation, transposed, true).log,
                ::testing::HasSubstr("choose_kernels gave 0 calls a kernel"))
        << dtype << approximation << transposed;
}

}  // namespace
