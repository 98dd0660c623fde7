// Results that are written over operands: which, when not, and what memory that saves.
#include "halfstep/graph.h"
#include "halfstep/graph/passes/pass.h"

#include <sstream>

#include <torch/types.h>

#include "tests/graph/recorded.h"
#include "tests/graph/steps.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::testing::recorded;
using halfstep::testing::same_bits;
using halfstep::testing::Tensors;
using torch::Tensor;

using Function = std::function<Tensors(const Tensor&)>;

constexpr int64_t kSide = 160;  // 100 KiB of float32

struct InPlaceStep : Graph<Tensors(Tensor)> {
  explicit InPlaceStep(Function its_function) : function(std::move(its_function)) {}
  Tensors build(const Tensor& x) override { return function(x); }
  Function function;
};

/// How many results of `function` the pass writes over an operand.
int64_t would_write(const Function& function, int64_t side = kSide) {
  auto program =
      recorded([&](const Tensors& in) { return function(in[0]); }, {torch::randn({side, side})});
  return halfstep::detail::write_in_place(program);
}

/// The same; checks replays by the way.
int64_t written(const Function& function, int64_t side = kSide) {
  InPlaceStep step(function);
  for (int i = 0; i < 4; ++i) {
    const auto in = torch::randn({side, side}), own = in.clone();
    EXPECT_TRUE(same_bits(function(own), step(in)));
    EXPECT_TRUE(same_bits({own}, {in}));
  }
  EXPECT_EQ(step.replayed_steps(), 2) << step.last_reason();
  return would_write(function, side);
}

TEST(WriteInPlace, AlongAChain) {
  EXPECT_EQ(written([](const Tensor& x) -> Tensors { return {x.mm(x).sin().relu().exp()}; }), 3);
  auto program = recorded([](const Tensors& x) -> Tensors { return {x[0].mm(x[0]).sin().relu()}; },
                          {torch::ones({kSide, kSide})});
  halfstep::detail::write_in_place(program);
  EXPECT_THAT(program.to_string(), ::testing::HasSubstr(" = sin.out(%1, %1)"));
  EXPECT_THAT(program.to_string(), ::testing::HasSubstr(" = clamp_min.out(%2, min=0, %2)"));
}

TEST(WriteInPlace, IntoTheOperandThatIsSpent) {
  EXPECT_EQ(written([](const Tensor& x) -> Tensors {
              const auto a = x.mm(x), b = a.sin();
              return {a * b - a};  // over b, and then over that
            }),
            2);
  EXPECT_EQ(written([](const Tensor& x) -> Tensors {
              const auto a = x.mm(x);
              return {a * a};
            }),
            1);
}

TEST(WriteInPlace, NotOverWhatTheSameCallReadsOtherwise) {
  const auto none = [](const std::function<Tensor(const Tensor&)>& function) {
    EXPECT_EQ(written([&](const Tensor& x) -> Tensors { return {function(x.mm(x))}; }), 0);
  };
  none([](const Tensor& a) { return a + a.t(); });
  none([](const Tensor& a) { return a - a.narrow(1, 0, 1); });
  none([](const Tensor& a) { return a - a.diagonal(); });
  none([](const Tensor& a) { return a / a[0][0]; });
}

TEST(WriteInPlace, NotOverWhatAViewOfARepeatedResultReads) {
  EXPECT_EQ(written([](const Tensor& x) -> Tensors {
              const auto product = x.mm(x), again = x.mm(x);
              return {product - again.select(0, 2)};
            }),
            1);  // as recorded: without reuse_results
}

TEST(WriteInPlace, ASymmetricWeightTrains) {
  struct Symmetric : Graph<Tensor(Tensor)> {
    Symmetric() { weight = register_parameter("weight", torch::randn({kSide, kSide})); }
    Tensor build(const Tensor& x) override {
      const auto loss = torch::linear(x, weight + weight.t()).square().mean();
      loss.backward();
      return loss;
    }
    Tensor weight;
  } step;
  step.config().check_replays();
  for (int i = 0; i < 4; ++i) step(torch::randn({8, kSide}));
  EXPECT_EQ(step.replayed_steps(), 2) << step.last_reason();
}

TEST(WriteInPlace, ThroughAViewOfAllOfIt) {
  EXPECT_EQ(written([](const Tensor& x) -> Tensors {
              return {x.mm(x).view({kSide / 2, kSide * 2}).sin().view_as(x) + x};
            }),
            2);
  EXPECT_EQ(written([](const Tensor& x) -> Tensors { return {x.mm(x).t().sin()}; }), 1);
}

TEST(WriteInPlace, LaterPassesSeeWhatSharesMemory) {
  auto program = recorded(
      [](const Tensors& x) -> Tensors {
        const auto a = x[0].mm(x[0]).sin();
        return {a.t().exp() + a.view({-1}).sum()};
      },
      {torch::ones({kSide, kSide})});
  halfstep::detail::write_in_place(program);
  const auto memory_of = [&](const std::string& op) {
    for (const auto& call : program.code) {
      if (call.op.schema().name() == op) return program.value(call.results[0].value).memory;
    }
    return -1;
  };
  for (const char* op : {"aten::sin", "aten::t", "aten::view"})
    EXPECT_EQ(memory_of(op), memory_of("aten::mm")) << op;
}

TEST(WriteInPlace, NotOverInputsOutputsAndWhatIsReadLater) {
  EXPECT_EQ(written([](const Tensor& x) -> Tensors { return {x.sin()}; }), 0);
  EXPECT_EQ(written([](const Tensor& x) -> Tensors {
              const auto a = x.mm(x);
              return {a, a.sin()};
            }),
            0);
  EXPECT_EQ(written([](const Tensor& x) -> Tensors {
              const auto a = x.mm(x), b = a.sin();
              return {b + a.sum()};
            }),
            1);  // the sum alone, over b
  EXPECT_EQ(written([](const Tensor& x) -> Tensors {
              const auto a = x.mm(x), view = a.t();
              return {a.sin().mm(view)};
            }),
            0);
}

TEST(WriteInPlace, NotOverAPartNorAnotherShapeOrDtype) {
  EXPECT_EQ(written([](const Tensor& x) -> Tensors {
              const auto a = torch::cat({x, x});
              return {a.narrow(0, 0, kSide).sin()};
            }),
            0);
  EXPECT_EQ(written([](const Tensor& x) -> Tensors {
              const auto row = x.mm(x).sum(0, true);
              return {row.expand({kSide, kSide}).sin(), row + x};
            }),
            0);
  EXPECT_EQ(written([](const Tensor& x) -> Tensors { return {x.mm(x) > 0}; }), 0);
  EXPECT_EQ(written([](const Tensor& x) -> Tensors { return {x.mm(x).to(torch::kBFloat16) + x}; }),
            0);
}

TEST(WriteInPlace, NotSmallOnesRandomOnesAndSums) {
  EXPECT_EQ(written([](const Tensor& x) -> Tensors { return {x.mm(x).sin()}; }, 128), 0);
  EXPECT_EQ(
      would_write([](const Tensor& x) -> Tensors { return {torch::bernoulli(x.mm(x).sigmoid())}; }),
      1);  // the sigmoid
  EXPECT_EQ(written([](const Tensor& x) -> Tensors { return {x.mm(x).softmax(1).cumsum(0)}; }), 0);
}

TEST(WriteInPlace, TakesLessMemory) {
  const auto memory = [](bool in_place) {
    InPlaceStep step(
        [](const Tensor& x) -> Tensors { return {x.mm(x).sin().sigmoid().tanh().sum()}; });
    step.config().enable_pass("write_in_place", in_place);
    std::ostringstream out;
    step.debug(1, out);
    for (int i = 0; i < 3; ++i) step(torch::ones({512, 512}));
    const auto text = out.str();
    const auto at = text.find(" pieces in ");
    EXPECT_NE(at, std::string::npos) << text;
    return std::stod(text.substr(at + 11));
  };
  EXPECT_NEAR(memory(true), 1, 0.1);  // MiB: one value
  EXPECT_NEAR(memory(false), 2, 0.1);
}

}  // namespace
