// Errors of a recording name the module whose code made the call, with and without a ModuleScope.
#include "halfstep/autocast.h"
#include "halfstep/core.h"
#include "halfstep/graph.h"

#include <optional>

#include <torch/types.h>

#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::UsageError;
using halfstep::testing::Mlp;
using halfstep::testing::Step;
using torch::Tensor;

class GraphCallPlace : public halfstep::testing::StepTest {};

double read(const Tensor& x) {
  return x.sum().item<double>();
}

TEST_P(GraphCallPlace, AfterTheModuleWhoseParameterWasUsedLast) {
  auto net = mlp();
  Step step(net, [&](const Tensor& x) {
    const auto hidden = net->first(x).relu();
    return net->second(hidden * read(hidden));
  });
  EXPECT_ERROR(step(random({8, 12})), UsageError,
               "_local_scalar_dense after module \"net.first\" reads a value on the host");
  Step later(net, [&](const Tensor& x) { return net->forward(x) * read(net->forward(x)); });
  EXPECT_ERROR(later(random({8, 12})), UsageError,
               "_local_scalar_dense after module \"net.second\"");
}

TEST_P(GraphCallPlace, InTheModuleWhoseParameterItTakes) {
  auto net = mlp();
  Step step(net, [&](const Tensor& x) {
    return at::equal(net->second->bias, x) ? net->first(x) : net->second(net->first(x));
  });
  EXPECT_ERROR(step(random({8, 12})), UsageError, "equal in module \"net.second\" reads");
}

TEST_P(GraphCallPlace, ByItsShadowToo) {
  auto net = mlp();
  const halfstep::ShadowWeights shadows(net->parameters(), torch::kBFloat16);
  Step step(net, [&](const Tensor& x) {
    const auto hidden = net->first(x);
    return hidden * read(hidden);
  });
  step.config().enable_amp(true, torch::kBFloat16);
  EXPECT_ERROR(step(random({8, 12})), UsageError, "_local_scalar_dense after module \"net.first\"");
}

TEST_P(GraphCallPlace, InTheScopeOfAModule) {
  auto net = mlp();
  Step step(net, [&](const Tensor& x) {
    const auto hidden = net->first(x);
    const halfstep::ModuleScope scope(*net->second);
    return hidden * read(hidden);
  });
  EXPECT_ERROR(step(random({8, 12})), UsageError, "_local_scalar_dense in module \"net.second\"");
  auto other = mlp();
  Step foreign(net, [&](const Tensor& x) {
    const halfstep::ModuleScope scope(*other);
    return x * read(x);
  });
  EXPECT_ERROR(foreign(random({8, 12})), UsageError,
               "in the ModuleScope of a module that the graph does not know");
}

TEST_P(GraphCallPlace, InTheGraphItselfInBackwardOrNowhere) {
  auto net = mlp();
  Step own([&](const Tensor& x) { return x * read(own.named_parameters()["scale"] * x); });
  own.register_parameter("scale", torch::ones({12}, device()));
  EXPECT_ERROR(own(random({8, 12})), UsageError,
               "_local_scalar_dense after the graph's own code reads");

  // A scope that backward() carries along does not say where its code is.
  for (const bool in_scope : {false, true}) {
    Step backward(net, [&](const Tensor& x) {
      std::optional<halfstep::ModuleScope> scope;
      if (in_scope) scope.emplace(*net->first);
      auto hidden = net->first(x);
      hidden.register_hook([](const Tensor& gradient) { return gradient * read(gradient); });
      const auto loss = net->second(hidden).sum();
      loss.backward();
      return loss;
    });
    EXPECT_ERROR(backward(random({8, 12})), UsageError, "_local_scalar_dense in backward() reads");
  }

  Step nowhere([](const Tensor& x) { return x * read(x); });
  EXPECT_ERROR(nowhere(random({3})), UsageError, "but _local_scalar_dense reads");
}

TEST_P(GraphCallPlace, OfWhatIsNotTheSameInTwoCalls) {
  auto net = mlp();
  double factor = 1;
  Step step(net, [&](const Tensor& x) { return net->second(net->first(x).relu() * ++factor); });
  const auto x = random({8, 12});
  step(x);
  step(x);
  EXPECT_ERROR(step(x), UsageError,
               "argument other of mul.Scalar after module \"net.first\" (call ");
}

HALFSTEP_ON_EACH_DEVICE(GraphCallPlace);

}  // namespace
