// Element-wise runs: the kernel beside LibTorch's ops, and the pass that finds runs in a program.
#include "halfstep/graph.h"
#include "halfstep/graph/kernels/elementwise_kernels.h"

#include <functional>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/ops/threshold_backward.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/graph/steps.h"
#include "tests/support/thread_count.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::detail::ElementwiseKind;
using halfstep::detail::ElementwiseStep;
using halfstep::testing::same_bits;
using halfstep::testing::ThreadCount;
using ::testing::HasSubstr;
using ::testing::Not;
using torch::kBFloat16;
using torch::kFloat;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

Tensors run_steps(const Tensors& inputs, const std::vector<ElementwiseStep>& steps,
                  const std::vector<int64_t>& outputs) {
  using Sign = Tensors(at::TensorList, at::IntArrayRef, at::IntArrayRef);
  return halfstep::detail::elementwise_op().typed<Sign>().call(
      inputs, halfstep::detail::packed(steps), outputs);
}

Tensor of_libtorch(ElementwiseKind kind, const Tensor& a, const Tensor& b, c10::ScalarType dtype) {
  switch (kind) {
    case ElementwiseKind::copy:
      return a.to(dtype);
    case ElementwiseKind::add:
      return a + b;
    case ElementwiseKind::multiply:
      return a * b;
    case ElementwiseKind::relu:
      return a.relu();
    case ElementwiseKind::mask:
      return at::threshold_backward(a, b, 0);
  }
  return {};
}

TEST(Elementwise, HasTheBitsOfLibTorchs) {
  torch::manual_seed(4);
  using Case = std::tuple<ElementwiseKind, c10::ScalarType, c10::ScalarType, c10::ScalarType>;
  std::vector<Case> cases = {{ElementwiseKind::copy, kFloat, kFloat, kBFloat16},
                             {ElementwiseKind::copy, kBFloat16, kFloat, kFloat},
                             {ElementwiseKind::add, kFloat, kBFloat16, kFloat},
                             {ElementwiseKind::multiply, kBFloat16, kFloat, kFloat}};
  for (const auto kind : {ElementwiseKind::copy, ElementwiseKind::add, ElementwiseKind::multiply,
                          ElementwiseKind::relu, ElementwiseKind::mask}) {
    ASSERT_TRUE(halfstep::detail::elementwise_has_same_bits(kind)) << "no graph would use it here";
    for (const auto dtype : {kFloat, kBFloat16}) cases.emplace_back(kind, dtype, dtype, dtype);
  }
  for (const int threads : {1, 2}) {
    const ThreadCount guard(threads);
    for (const int64_t size : {1, 15, 16, 1000, 1024, 1025, 40000}) {
      for (const auto& [kind, of_a, of_b, dtype] : cases) {
        const auto a = torch::randn({size}).to(of_a), b = torch::randn({size}).to(of_b);
        EXPECT_TRUE(same_bits({of_libtorch(kind, a, b, dtype)},
                              run_steps({a, b}, {{kind, 0, 1, dtype}}, {2})))
            << int(kind) << ' ' << of_a << ' ' << of_b << ' ' << dtype << ' ' << size;
      }
    }
  }
}

TEST(Elementwise, RoundsAfterEachStepAndGivesWhatIsAskedFor) {
  torch::manual_seed(5);
  const auto a = torch::randn({4, 5, 300}).to(kBFloat16).transpose(0, 2);
  const auto b = torch::randn({4, 5, 300}).transpose(0, 2);
  const auto results = run_steps({a, b},
                                 {{ElementwiseKind::multiply, 0, 0, kBFloat16},
                                  {ElementwiseKind::add, 2, 1, kFloat},
                                  {ElementwiseKind::copy, 3, -1, kBFloat16},
                                  {ElementwiseKind::mask, 4, 0, kBFloat16}},
                                 {3, 5});
  const auto sum = a * a + b;
  EXPECT_TRUE(same_bits({sum, at::threshold_backward(sum.to(kBFloat16), a, 0)}, results));
  EXPECT_EQ(results[0].strides(), a.strides());
}

struct Chain : Graph<Tensors(Tensor)> {
  using Function = std::function<Tensors(const Tensor&)>;
  explicit Chain(Function its_function) : function(std::move(its_function)) {}
  Tensors build(const Tensor& x) override { return function(x); }
  Function function;
};

/// The program with `count` runs in it; its results have the bits of an eager run.
std::string joined(int count, const Chain::Function& function, c10::ScalarType dtype = kFloat) {
  Chain step(function);
  step.config().check_replays();
  for (const auto* other : {"reuse_views", "reuse_results", "fuse_batch_norm"})
    step.config().enable_pass(other, false);
  std::ostringstream log;
  step.debug(1, log);
  torch::manual_seed(6);
  for (int i = 0; i < 4; ++i) {
    const auto x = torch::randn({6, 7}).to(dtype), own = x.clone();
    EXPECT_TRUE(same_bits(function(own), step(x)));
    EXPECT_TRUE(same_bits({own}, {x}));
  }
  EXPECT_EQ(step.replayed_steps(), 2) << step.last_reason();
  EXPECT_THAT(log.str(), HasSubstr(c10::str("fuse_elementwise joined ", count, " runs")));
  return step.program();
}

TEST(FuseElementwise, JoinsARun) {
  const auto program = joined(1, [](const Tensor& x) -> Tensors {
    return {(x.to(kBFloat16) * x.to(kBFloat16) + x).relu().to(kBFloat16)};
  });
  EXPECT_THAT(program, HasSubstr("halfstep::elementwise("));
  for (const auto* gone : {"mul.Tensor(", "add.Tensor(", "relu("})
    EXPECT_THAT(program, Not(HasSubstr(gone)));
}

TEST(FuseElementwise, IsSwitchedOff) {
  Chain step([](const Tensor& x) -> Tensors { return {(x + x).relu()}; });
  step.config().enable_pass("fuse_elementwise", false);
  for (int i = 0; i < 3; ++i) step(torch::randn({3}));
  EXPECT_THAT(step.program(), HasSubstr("relu("));
}

TEST(FuseElementwise, JoinsEachKindOfCall) {
  for (const Chain::Function& function : std::vector<Chain::Function>{
           [](const Tensor& x) -> Tensors { return {(x + x).relu()}; },
           [](const Tensor& x) -> Tensors { return {(x * x).relu()}; },
           [](const Tensor& x) -> Tensors { return {x.relu() + x}; },
           [](const Tensor& x) -> Tensors { return {at::threshold_backward(x * x, x, 0)}; },
           [](const Tensor& x) -> Tensors { return {at::threshold_backward(x, x, 0) + x}; },
           [](const Tensor& x) -> Tensors { return {x.relu().to(kBFloat16)}; },
           [](const Tensor& x) -> Tensors { return {(x * x).add_(x).relu_().mul_(x)}; }}) {
    joined(1, function);
    joined(1, [&](const Tensor& x) { return function(x.t()); });
  }
}

TEST(FuseElementwise, TakesASumOfTwoDtypesAlone) {
  EXPECT_THAT(
      joined(1, [](const Tensor& x) -> Tensors { return {x + x.exp().to(kBFloat16).t().t()}; }),
      Not(HasSubstr("add.Tensor(")));
  joined(0, [](const Tensor& x) -> Tensors { return {x + x.exp()}; });
}

TEST(FuseElementwise, GivesOutWhatOthersReadLater) {
  // The sum is read after the run; the product is given out.
  joined(1, [](const Tensor& x) -> Tensors {
    const auto product = x * x, sum = product + x, last = sum.relu();
    return {product, sum.exp() + last.exp()};
  });
}

TEST(FuseElementwise, EndsWhereSomebodyReadsOrWritesBetween) {
  joined(0, [](const Tensor& x) -> Tensors {
    const auto sum = x + x;
    const auto read = sum.exp();
    return {sum.relu(), read};
  });
  // Another operand is written before the next call.
  EXPECT_THAT(joined(0,
                     [](const Tensor& x) -> Tensors {
                       auto other = x.exp();
                       const auto sum = x + other;
                       other.t().sin_();
                       return {sum.relu(), other};
                     }),
              HasSubstr("relu("));
}

TEST(FuseElementwise, LeavesOtherShapesStridesDtypesAndScales) {
  joined(0, [](const Tensor& x) -> Tensors { return {(x + x.select(0, 0)).relu_().exp()}; });
  joined(0,
         [](const Tensor& x) -> Tensors { return {(x.slice(1, 0, 5) + x.slice(1, 2, 7)).exp()}; });
  joined(0, [](const Tensor& x) -> Tensors { return {x.slice(1, 0, 5).relu().exp()}; });
  joined(0, [](const Tensor& x) -> Tensors { return {(x + 1).relu()}; });
  joined(0, [](const Tensor& x) -> Tensors { return {x.add(x, 2).relu()}; });
  joined(0, [](const Tensor& x) -> Tensors { return {at::threshold_backward(x, x, 1).relu()}; });
  joined(0, [](const Tensor& x) -> Tensors { return {x.relu().to(torch::kDouble)}; });
  joined(
      0, [](const Tensor& x) -> Tensors { return {(x + x).relu()}; }, torch::kHalf);
  joined(
      0, [](const Tensor& x) -> Tensors { return {(x + x).relu()}; }, torch::kDouble);
}

TEST(FuseElementwise, LeavesWritesThatOthersSee) {
  // Into an input.
  joined(0, [](const Tensor& x) -> Tensors {
    auto own = x;
    own.add_(x.exp()).relu_();
    return {x.exp()};
  });
  joined(0, [](const Tensor& x) -> Tensors {
    x.t().add_(x.exp().t()).relu_();
    return {x.exp()};
  });
  joined(0, [](const Tensor& x) -> Tensors {
    const auto read = x.exp();
    x.t().add_(read.t()).relu_();  // nobody reads it in the program
    return {read};
  });
  // Into memory that an older view shows.
  joined(0, [](const Tensor& x) -> Tensors {
    auto y = x.exp();
    const auto view = y.t();
    y.add_(x).relu_();
    return {view.sin()};
  });
  joined(0, [](const Tensor& x) -> Tensors {
    auto y = x.exp();
    const auto view = y.t();
    y.add_(x).relu_();
    return {view};
  });
}

TEST(FuseElementwise, LetsViewsSeeWhatWasWrittenInPlace) {
  joined(1, [](const Tensor& x) -> Tensors {
    auto y = x.exp();
    y.add_(x).relu_();
    return {y.t().sin(), y};
  });
}

TEST(FuseElementwise, CutsLongRuns) {
  const auto program = joined(3, [](const Tensor& x) -> Tensors {
    auto y = x;
    for (int i = 0; i < 15; ++i) y = y + x;
    return {y};
  });
  EXPECT_THAT(program, Not(HasSubstr("add.Tensor(")));
}

}  // namespace
