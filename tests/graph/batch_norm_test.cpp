// Batch norm's own kernels beside LibTorch's, and the pass that puts them into a program.
#include "halfstep/graph.h"
#include "halfstep/graph/kernels/batch_norm_kernels.h"

#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/nn.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/graph/steps.h"
#include "tests/support/thread_count.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::testing::ThreadCount;
using ::testing::HasSubstr;
using ::testing::Not;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

Tensor image(at::IntArrayRef sizes) {
  return (torch::randn(sizes) * 2 + 0.4)
      .to(torch::kBFloat16)
      .contiguous(at::MemoryFormat::ChannelsLast);
}

std::tuple<Tensor, Tensor, Tensor> ours(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                        Tensor mean, Tensor var, const std::optional<Tensor>& other,
                                        bool relu) {
  using Sign = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                  Tensor&, Tensor&, double, double,
                                                  const std::optional<Tensor>&, bool);
  return halfstep::detail::batch_norm_op().typed<Sign>().call(x, weight, bias, mean, var, 0.1, 1e-5,
                                                              other, relu);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> our_backward(
    const Tensor& grad, const std::optional<Tensor>& other, const std::optional<Tensor>& output,
    const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& invstd, bool keep) {
  using Sign = std::tuple<Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const std::optional<Tensor>&, const std::optional<Tensor>&, const Tensor&,
      const Tensor&, const Tensor&, const Tensor&, bool);
  return halfstep::detail::batch_norm_backward_op().typed<Sign>().call(grad, other, output, x,
                                                                       weight, mean, invstd, keep);
}

const std::vector<std::vector<int64_t>> kSizes = {
    {1, 32, 1, 2}, {2, 64, 5, 3}, {3, 96, 7, 7}, {4, 160, 9, 5}, {1, 512, 4, 4}};

TEST(BatchNormKernels, HaveTheBitsOfLibTorchs) {
  ASSERT_TRUE(halfstep::detail::batch_norm_has_same_bits()) << "no graph would choose them here";
  torch::manual_seed(2);
  for (const int threads : {1, 2, 3}) {
    const ThreadCount guard(threads);
    for (const auto& sizes : kSizes) {
      const auto x = image(sizes), other = image(sizes), grad = image(sizes), more = image(sizes);
      const auto weight = torch::randn(sizes[1]), bias = torch::randn(sizes[1]);
      for (const int kind : {0, 1, 2, 3}) {
        SCOPED_TRACE(c10::str(threads, " threads, ", sizes, ", kind ", kind));
        const bool adds = (kind & 1) != 0, relu = (kind & 2) != 0;
        Tensor mean = torch::randn(sizes[1]), var = torch::rand(sizes[1]);
        const auto own_mean = mean.clone(), own_var = var.clone();
        auto [y, save_mean, invstd] =
            at::native_batch_norm(x, weight, bias, mean, var, true, 0.1, 1e-5);
        if (adds) y = y + other;
        if (relu) y = y.relu();
        const auto [own_y, own_save_mean, own_invstd] = ours(
            x, weight, bias, own_mean, own_var, adds ? std::optional(other) : std::nullopt, relu);
        EXPECT_TRUE(same_bits({y, save_mean, invstd, mean, var},
                              {own_y, own_save_mean, own_invstd, own_mean, own_var}));
        EXPECT_EQ(own_y.strides(), y.strides());

        auto masked = adds ? grad + more : grad;
        if (relu) masked = at::threshold_backward(masked, y, 0);
        const auto [dx, dweight, dbias] = at::native_batch_norm_backward(
            masked, x, weight, mean, var, save_mean, invstd, true, 1e-5, {true, true, true});
        for (const bool keep : {false, true}) {
          const auto [own_dx, own_dweight, own_dbias, own_masked] = our_backward(
              grad, adds ? std::optional(more) : std::nullopt,
              relu ? std::optional(y) : std::nullopt, x, weight, save_mean, invstd, keep);
          EXPECT_TRUE(same_bits({dweight, dbias, dx}, {own_dweight, own_dbias, own_dx}));
          EXPECT_EQ(own_masked.defined(), keep);
          if (keep) {
            EXPECT_TRUE(same_bits({masked}, {own_masked}));
          }
        }
      }
    }
  }
}

TEST(BatchNormKernels, PassNaNOn) {
  auto x = image({2, 32, 3, 3});
  x[0][5][1][1] = NAN;
  const auto one = torch::ones(32), zero = torch::zeros(32);
  const auto [y, mean, invstd] = ours(x, one, zero, zero.clone(), one.clone(), x, true);
  EXPECT_TRUE(y.select(1, 5).isnan().all().item<bool>());
  EXPECT_TRUE(y.select(1, 6).isfinite().all().item<bool>());
}

/// Two batch norms over what `function` makes of them and of x · weight.
struct Norms : Graph<Tensors(Tensor)> {
  using Function = std::function<Tensor(Norms&, const Tensor&)>;
  Norms(Function its_function, int64_t channels, c10::ScalarType dtype)
      : weight(register_parameter("weight", torch::randn({1, channels, 1, 1}).to(dtype))),
        first(register_module("first", torch::nn::BatchNorm2d(channels))),
        second(register_module("second", torch::nn::BatchNorm2d(channels))),
        function(std::move(its_function)) {}
  Tensors build(const Tensor& x) override {
    extra.clear();
    const auto y = function(*this, x * weight);
    (y * y).sum().backward();
    Tensors results{y.detach()};
    for (const auto& tensor : extra) results.push_back(tensor.detach());
    return results;
  }
  Tensor weight;
  torch::nn::BatchNorm2d first, second;
  Function function;
  Tensors extra;  // given out
};

struct NormKind {
  int64_t channels = 32;
  c10::ScalarType dtype = torch::kBFloat16;
  bool channels_last = true;
  bool train = true;
};

struct NormOutcome {
  Tensors state;
  std::string log, program;
};

NormOutcome run(const Norms::Function& function, const NormKind& kind, bool fuses) {
  torch::manual_seed(3);
  Norms norms(function, kind.channels, kind.dtype);
  norms.train(kind.train);
  norms.config()
      .enable_pass("fuse_batch_norm", fuses)
      .enable_pass("fuse_elementwise", false)
      .check_replays();
  std::ostringstream log;
  norms.debug(1, log);
  NormOutcome outcome;
  for (int i = 0; i < 4; ++i) {
    for (const auto& parameter : norms.parameters()) parameter.mutable_grad() = Tensor();
    auto x = torch::randn({3, kind.channels, 5, 4}).to(kind.dtype);
    if (kind.channels_last) x = x.contiguous(at::MemoryFormat::ChannelsLast);
    outcome.state = norms(x);
  }
  EXPECT_EQ(norms.replayed_steps(), 2) << norms.last_reason();
  for (const auto& parameter : norms.parameters()) {
    if (parameter.grad().defined()) outcome.state.push_back(parameter.grad());
  }
  for (const auto& tensor : state_of(norms)) outcome.state.push_back(tensor);
  outcome.log = log.str();
  outcome.program = norms.program();
  return outcome;
}

/// The program with the pass, whose results have the bits of the one without.
std::string fused(const Norms::Function& function, int count, const NormKind& kind = {}) {
  const auto with = run(function, kind, true), without = run(function, kind, false);
  EXPECT_THAT(with.log,
              HasSubstr(c10::str("fuse_batch_norm made ", count, " calls of batch norms")));
  EXPECT_THAT(without.log, Not(HasSubstr("fuse_batch_norm")));
  EXPECT_GT(with.state[0].abs().max().item<float>(), 0);
  EXPECT_TRUE(same_bits(with.state, without.state));
  return with.program;
}

TEST(FuseBatchNorm, TakesTheReluAlong) {
  const auto program = fused([](Norms& n, const Tensor& x) { return n.first(x).relu(); }, 2);
  EXPECT_THAT(program, HasSubstr("halfstep::batch_norm("));
  EXPECT_THAT(program, HasSubstr("halfstep::batch_norm_backward("));
  for (const auto* gone : {"native_batch_norm", " relu(", "threshold_backward("})
    EXPECT_THAT(program, Not(HasSubstr(gone)));
}

TEST(FuseBatchNorm, TakesAReluInPlaceAlong) {
  const auto program = fused([](Norms& n, const Tensor& x) { return n.first(x).relu_() * 2; }, 2);
  for (const auto* gone : {"native_batch_norm", " relu_(", "threshold_backward("})
    EXPECT_THAT(program, Not(HasSubstr(gone)));
}

// As in a ResNet: every block's gradient goes two ways and comes together again.
Tensor residual(Norms& n, const Tensor& x, bool in_place) {
  const auto start = n.first(x);
  const auto a = in_place ? start.relu_() : start.relu();
  const auto b = n.second(a * 0.5);
  return in_place ? b.add_(a).relu_() : (b + a).relu();
}

TEST(FuseBatchNorm, TakesTheSumOfAResidualBlockAlong) {
  for (const bool in_place : {false, true}) {
    const auto program =
        fused([&](Norms& n, const Tensor& x) { return residual(n, x, in_place); }, 4);
    for (const auto* gone : {"native_batch_norm", " relu(", " relu_(", "threshold_backward(",
                             " add.Tensor(", " add_.Tensor("})
      EXPECT_THAT(program, Not(HasSubstr(gone))) << gone;
  }
}

TEST(FuseBatchNorm, TakesTheSumOfTwoBatchNormsAlong) {
  for (const bool in_place : {false, true}) {
    const auto program = fused(
        [&](Norms& n, const Tensor& x) {
          const auto a = n.first(x * 0.5), b = n.second(x * 2);
          return in_place ? a.add_(b).relu_() : (a + b).relu();
        },
        4);
    for (const auto* gone : {"native_batch_norm", " relu(", " relu_(", "threshold_backward("})
      EXPECT_THAT(program, Not(HasSubstr(gone))) << gone;
  }
}

TEST(FuseBatchNorm, LeavesOtherFormatsDtypesAndChannels) {
  const auto block = [](Norms& n, const Tensor& x) { return n.first(x).relu(); };
  NormKind contiguous, wide, narrow, evaluates;
  contiguous.channels_last = false;
  wide.dtype = torch::kFloat;
  narrow.channels = 24;
  evaluates.train = false;
  for (const auto& kind : {contiguous, wide, narrow, evaluates})
    EXPECT_THAT(fused(block, 0, kind), HasSubstr("native_batch_norm("));
}

TEST(FuseBatchNorm, LeavesWhatSomebodyElseReads) {
  // The batch norm itself, and what goes into its relu.
  auto program = fused(
      [](Norms& n, const Tensor& x) {
        const auto y = n.first(x);
        return y.relu() + y.sigmoid();
      },
      2);
  EXPECT_THAT(program, HasSubstr(" relu("));
  // The sum.
  program = fused(
      [](Norms& n, const Tensor& x) {
        const auto y = n.first(x) + x;
        return y.relu() + y.sigmoid();
      },
      2);
  EXPECT_THAT(program, HasSubstr(" relu("));
}

TEST(FuseBatchNorm, LeavesWhatIsGivenOut) {
  auto program = fused(
      [](Norms& n, const Tensor& x) {
        n.extra.push_back(n.first(x));
        return n.extra[0].relu();
      },
      2);
  EXPECT_THAT(program, HasSubstr(" relu("));
}

TEST(FuseBatchNorm, LeavesWhatIsWrittenBetween) {
  // What is added changes after it was added; the running statistics are read, and the input
  // written, before the relu.
  EXPECT_THAT(fused(
                  [](Norms& n, const Tensor& x) {
                    auto other = x.detach() * 3;
                    const auto sum = n.first(x) + other;
                    other.add_(1);
                    return sum.relu() + other;
                  },
                  2),
              HasSubstr(" relu("));
  EXPECT_THAT(fused(
                  [](Norms& n, const Tensor& x) {
                    const auto y = n.first(x);
                    n.extra.push_back(n.first->running_mean.exp());
                    return y.relu();
                  },
                  2),
              HasSubstr(" relu("));
}

TEST(FuseBatchNorm, LeavesOtherScalesAndShapes) {
  EXPECT_THAT(fused([](Norms& n, const Tensor& x) { return n.first(x).add(x, 2).relu(); }, 2),
              HasSubstr(" add.Tensor("));
  EXPECT_THAT(fused([](Norms& n, const Tensor& x) { return (n.first(x) + n.weight).relu(); }, 2),
              HasSubstr(" add.Tensor("));
  EXPECT_THAT(
      fused([](Norms& n, const Tensor& x) { return (n.first(x) + x.to(torch::kFloat)).relu(); }, 2),
      HasSubstr(" add.Tensor("));
}

TEST(FuseBatchNorm, KeepsTheGradientThatOthersReadOrWriteInto) {
  // x's gradient is added in place to what the relu's backward gave.
  fused(
      [](Norms& n, const Tensor& x) {
        const auto y = n.first(x * 2);
        return (y + x.sigmoid()).relu();
      },
      2);
}

TEST(FuseBatchNorm, LeavesARunningStatisticSharedByTwoCalls) {
  fused([](Norms& n, const Tensor& x) { return n.first(n.first(x).relu() + x).relu(); }, 4);
}

}  // namespace
