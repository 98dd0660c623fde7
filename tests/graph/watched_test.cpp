// What a recording takes for granted beyond shapes: which tensors, who shares memory, defaults,
// generators.
#include "halfstep/core/error.h"
#include "halfstep/graph.h"

#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/library.h>

#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::UsageError;
using halfstep::testing::same_bits;
using halfstep::testing::Step;
using torch::Tensor;

class GraphWatched : public halfstep::testing::StepTest {};

struct TwoWeights : torch::nn::Module {
  explicit TwoWeights(c10::Device device) {
    a = register_parameter("a", torch::randn({3, 3}, device));
    b = register_parameter("b", torch::randn({3, 3}, device));
  }
  Tensor forward(const Tensor& x) const { return x.mm(a).mm(b); }
  Tensor a, b;
};

TEST_P(GraphWatched, AParameterThatTakesAnothersPlace) {
  const auto net = std::make_shared<TwoWeights>(device());
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  warm_up(step, random({3, 3}));
  const auto all = net->parameters();  // somebody who holds the old one
  net->a = net->register_parameter("c", random({3, 3}));
  expect_same(step, function, {random({3, 3})});
  EXPECT_EQ(step.last_reason(),
            "a parameter or buffer of a " + net->name() + " was registered or replaced");
}

TEST_P(GraphWatched, TiesThatAreCutAndMade) {
  const auto net = std::make_shared<TwoWeights>(device());
  net->b.set_data(net->a.detach());
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  warm_up(step, random({3, 3}));
  net->b.set_data(random({3, 3}));
  expect_same(step, function, {random({3, 3})});
  EXPECT_EQ(step.last_reason(), "net.b shares no memory any more with net.a");
  for (int i = 0; i < 2; ++i) step(random({3, 3}));
  EXPECT_EQ(step.last_reason(), "");
  net->b.set_data(net->a.detach());
  expect_same(step, function, {random({3, 3})});
  EXPECT_EQ(step.last_reason(), "two tensors share memory that did not");
}

struct OfTwo : Graph<Tensor(Tensor, Tensor)> {
  Tensor build(const Tensor& x, const Tensor& y) override { return (x + y).relu() * x.sum(0); }
};

TEST_P(GraphWatched, InputsThatSharedMemoryWhenItWasRecorded) {
  OfTwo step;
  const auto base = random({4, 8}), wide = random({1, 4}).expand({4, 4});
  for (int i = 0; i < 3; ++i) step(base.slice(1, 0, 4), base.slice(1, 4, 8));
  EXPECT_EQ(step.replayed_steps(), 1);
  const auto x = random({4, 8}).slice(1, 0, 4), y = random({4, 8}).slice(1, 2, 6);
  EXPECT_TRUE(same_bits({(x + y).relu() * x.sum(0)}, {step(x, y)}));
  EXPECT_EQ(step.last_reason(), "");
  for (int i = 0; i < 4; ++i)
    EXPECT_TRUE(same_bits({(wide + wide).relu() * wide.sum(0)}, {step(wide, wide)}));
  EXPECT_EQ(step.last_reason(), "");
  const auto steps = random({7}).unfold(0, 4, 1);
  EXPECT_ERROR(step(steps, steps), UsageError, "an input whose elements overlap", "pass a clone()");
}

TEST_P(GraphWatched, TheDefaultDtype) {
  Step step([](const Tensor& x) { return x / 2 + torch::ones({2}, x.device()); });
  const auto x = torch::tensor({1, 2}, device());
  warm_up(step, x);
  at::set_default_dtype(c10::scalarTypeToTypeMeta(torch::kDouble));
  const auto in_double = step(x);
  at::set_default_dtype(c10::scalarTypeToTypeMeta(torch::kFloat));
  EXPECT_EQ(in_double.scalar_type(), torch::kDouble);
  EXPECT_EQ(step(x).scalar_type(), torch::kFloat);
  EXPECT_EQ(step.last_reason(), "");
}

TEST_P(GraphWatched, ChangesOfTheGraphFromWithinBuildAreErrors) {
  Step step([&](const Tensor& x) {
    step.add_tensor("late", x);
    return x * 2;
  });
  EXPECT_ERROR(step(random({2})), UsageError, "[Graph] a graph must not be changed while it runs",
               "call it before the graph");
}

TEST_P(GraphWatched, ConjugateAndNegativeViewsInBuild) {
  const auto function = [](const Tensor& x) {
    const auto z = at::view_as_complex(x);
    return at::view_as_real((z.conj() * z + z).resolve_conj()).sum(1) + at::imag(z.conj());
  };
  Step step(function);
  for (int i = 0; i < 5; ++i) {
    const auto x = random({3, 2});
    const auto expected = function(x.unsqueeze(1)), got = step(x.unsqueeze(1));
    EXPECT_TRUE(same_bits({expected}, {got})) << i;
  }
  EXPECT_EQ(step.replayed_steps(), 3);
}

TEST_P(GraphWatched, ViewsInPlaceAreOthersValues) {
  const auto function = [](const Tensor& x) {
    auto y = x.exp();
    const auto before = y.sin();
    y.t_();
    auto z = y.t() * 2 + before;
    z.unsqueeze_(0);
    return z.select(0, 0) + y;
  };
  Step step(function);
  for (int i = 0; i < 5; ++i) expect_same(step, function, {random({3, 3})});
  EXPECT_EQ(step.replayed_steps(), 3);
  Step of_input([](const Tensor& x) {
    auto same = x;
    return same.t_() * 2;
  });
  EXPECT_ERROR(of_input(random({3, 2})), UsageError, "t_ changes that of another tensor",
               "the op that makes a view");
}

TEST_P(GraphWatched, OutputsAreTheCallersOwn) {
  const auto net = std::make_shared<TwoWeights>(device());
  struct Outputs : Graph<std::vector<Tensor>(Tensor)> {
    explicit Outputs(std::shared_ptr<TwoWeights> its_net)
        : net(register_module("net", std::move(its_net))) {}
    std::vector<Tensor> build(const Tensor& x) override { return {net->a, net->b.t(), x}; }
    std::shared_ptr<TwoWeights> net;
  } step(net);
  for (int i = 0; i < 5; ++i) {
    const auto x = random({2, 2});
    auto outputs = step(x);
    EXPECT_TRUE(same_bits({net->a.detach(), net->b.detach().t(), x}, outputs));
    EXPECT_FALSE(outputs[0].is_same(net->a) || outputs[2].is_same(x));
    for (auto& output : outputs) {
      EXPECT_FALSE(output.requires_grad());
      output.unsqueeze_(0).requires_grad_();  // no other call's
    }
  }
  EXPECT_EQ(step.replayed_steps(), 3);
}

HALFSTEP_ON_EACH_DEVICE(GraphWatched);

TEST(GraphCalls, AGeneratorThatBuildMakesIsAnError) {
  Step step([](const Tensor& x) {
    return x + torch::rand({2}, at::make_generator<at::CPUGeneratorImpl>(42));
  });
  step(torch::ones({2}));
  step(torch::ones({2}));
  EXPECT_ERROR(step(torch::ones({2})), UsageError, "argument generator of rand", "the next time");
}

TEST(GraphCalls, AnAssertionIsNoDeadCall) {
  Step step([](const Tensor& x) {
    at::_assert_async(x.gt(0).all(), "x must be above 0");
    return x * 2;
  });
  for (int i = 0; i < 4; ++i) step(torch::ones({2}));
  EXPECT_EQ(step.replayed_steps(), 2);
  EXPECT_THROW(step(torch::zeros({2})), c10::Error);
}

int64_t ticks = 0;

TORCH_LIBRARY(halfstep_graph_test, library) {
  library.def("scale_like(Tensor x, Tensor by) -> Tensor",
              [](const Tensor& x, const Tensor& by) { return x * by; });
  library.def("bump_(Tensor(a!) x, int by) -> int", [](Tensor x, int64_t by) {
    x.add_(by);
    return by;
  });
  library.def("tick(int size) -> Tensor",
              [](int64_t size) { return torch::full({size}, float(++ticks)); });
}

template <class Signature>
auto custom(const char* name) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string("halfstep_graph_test::") + name).c_str(), "")
      .typed<Signature>();
}

TEST(GraphCalls, OpsOfOthersAreTakenAtTheirSchemas) {
  const auto scale = custom<Tensor(const Tensor&, const Tensor&)>("scale_like");
  const auto bump = custom<int64_t(Tensor, int64_t)>("bump_");
  const auto tick = custom<Tensor(int64_t)>("tick");
  const auto function = [&](const Tensor& x) {
    auto y = scale.call(x, x);
    bump.call(y, 3);
    return scale.call(y, y) + 0;
  };
  Step step(function);
  for (int i = 0; i < 5; ++i) {
    const auto x = torch::randn({4});
    EXPECT_TRUE(same_bits({function(x)}, {step(x)})) << i;
  }
  EXPECT_EQ(step.replayed_steps(), 3);
  Step ticking([&](const Tensor& x) { return tick.call(2) + x; });
  ticks = 0;
  for (int i = 1; i <= 5; ++i) EXPECT_EQ(ticking(torch::zeros({2}))[0].item<float>(), i);
  EXPECT_EQ(ticking.replayed_steps(), 3);
}

TEST(GraphCalls, TheCheckedModeTakesNansAndStrides) {
  Step step([](const Tensor& x) {
    const auto low = (x * 1e38 * 10).to(torch::kBFloat16);
    return (low - low).relu().to(torch::kFloat) + x.sum();
  });
  step.config().check_replays();
  for (int i = 0; i < 4; ++i) step(torch::randn({64, 200}).slice(1, 0, 100));
  EXPECT_EQ(step.replayed_steps(), 2);
}

}  // namespace
