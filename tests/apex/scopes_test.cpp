// The scopes of scale_loss: what they do with gradients, and which orders they refuse.
#include "halfstep/core/error.h"
#include "halfstep/optim/sgd.h"

#include <limits>

#include "tests/apex/amp_case.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

namespace {

/// A model with an optimizer and, where the level's scale is dynamic, scales of 4.
struct ScopeCase {
  ScopeCase(c10::Device device, OptLevel level, int64_t num_losses = 1)
      : model(1, device),
        optimizer(sgd(model.parameters(), 1)),
        amp(apex::initialize(model, optimizer, as_is(level).num_losses(num_losses))) {
    for (int64_t i = 0; i < num_losses && !amp.properties().loss_scale; ++i)
      set_scale(amp.scaler(i), 4);
  }
  at::Tensor loss() { return model.forward(torch::ones({2}, model.weight0.device())); }
  /// One loss, from scale to backward.
  void backward(const ScaleLossOptions& options = ScaleLossOptions()) {
    auto scaled = amp.scale_loss(loss(), optimizer, options);
    scaled->backward();
  }
  void throw_inside(const ScaleLossOptions& options = ScaleLossOptions()) {
    auto scaled = amp.scale_loss(loss(), optimizer, options);
    scaled->backward();
    throw std::runtime_error("in the scope");
  }
  /// What the optimizer steps by.
  at::Tensor gradient(size_t weight) { return amp.master_params(optimizer)[weight].grad(); }

  TwoWeights model;
  torch::optim::SGD optimizer;
  apex::Amp amp;
};

const auto kDelay = ScaleLossOptions().delay_unscale(true);

}  // namespace

class ApexScopes : public AmpTest {};
HALFSTEP_ON_EACH_DEVICE(ApexScopes);

TEST_P(ApexScopes, DelayedUnscaling) {
  for (const auto level : {OptLevel::O1, OptLevel::O2}) {
    ScopeCase one(device(), level, 2);
    one.backward();
    const auto once = one.model.weight0.grad().clone();
    one.backward(kDelay);
    expect_same_bits(one.model.weight0.grad(), 4 * once);
    EXPECT_ERROR(one.amp.step(one.optimizer), UsageError, "[apex::Amp::step]", "those of loss 0");
    EXPECT_ERROR(one.backward(ScaleLossOptions().loss_id(1)), UsageError, "[apex::Amp::scale_loss]",
                 "they are of loss 0 and this is loss 1");
    one.backward();
    expect_same_bits(one.gradient(0), 3 * once);
    const auto before = one.model.weight0.detach().clone();
    EXPECT_TRUE(one.amp.step(one.optimizer).stepped());
    expect_same_bits(one.model.weight0.detach(), before - 3 * once);
    EXPECT_EQ(one.amp.scaler().growth_tracker(), 2);
  }
}

TEST_P(ApexScopes, DelayForgottenWhenZeroed) {
  ScopeCase one(device(), OptLevel::O2);
  one.backward(kDelay);
  one.model.zero_grad();
  one.backward();
  expect_same_bits(one.gradient(0), one.model.weight1.detach().to(f32));
}

TEST_P(ApexScopes, ExceptionsLeaveGradientsAsTheyWere) {
  ScopeCase one(device(), OptLevel::O2);
  one.backward();
  const auto before0 = one.gradient(0).clone(), before1 = one.gradient(1).clone();
  EXPECT_THROW(one.throw_inside(), std::runtime_error);
  expect_same_bits(one.model.weight0.grad(), before0);
  expect_same_bits(one.gradient(1), before1);
  EXPECT_TRUE(one.amp.step(one.optimizer).stepped());
}

TEST_P(ApexScopes, StaticScalesAreNotChecked) {
  TwoWeights model(1, device());
  auto optimizer = sgd(model.parameters(), 0);
  auto amp = apex::initialize(model, optimizer, as_is(OptLevel::O3).loss_scale(128));
  backward(amp, model.forward(x()) * std::numeric_limits<float>::infinity(), optimizer);
  EXPECT_TRUE(amp.step(optimizer).stepped());
  optimizer.zero_grad();
  {
    auto scope = amp.scale_loss(model.forward(x()).detach().fill_(2).requires_grad_(), optimizer);
    EXPECT_EQ(scope->item<double>(), 256);
    model.weight0.mutable_grad() = torch::full_like(model.weight0, 256);
    model.weight1.mutable_grad() = torch::full_like(model.weight1, 256);
  }
  EXPECT_EQ(model.weight0.grad()[0].item<float>(), 2);
  EXPECT_EQ(model.weight1.grad()[0].item<float>(), 2) << "in float16";
}

TEST_P(ApexScopes, AStepInsideIsRefused) {
  for (const auto level : kLevels) {
    ScopeCase one(device(), level);
    const auto before = one.model.weight0.detach().clone();
    {
      auto scaled = one.amp.scale_loss(one.loss(), one.optimizer);
      scaled->backward();
      EXPECT_ERROR(one.amp.step(one.optimizer), UsageError, "[apex::Amp::step]",
                   "but one with this optimizer is still open; put braces around");
      EXPECT_ERROR(one.amp.add_param_group(one.optimizer, torch::optim::OptimizerParamGroup({})),
                   UsageError, "[apex::Amp::add_param_group]", "still open");
    }
    expect_same_bits(one.model.weight0.detach(), before);
    EXPECT_TRUE(one.amp.step(one.optimizer).stepped());
    EXPECT_FALSE(one.model.weight0.detach().equal(before));
  }
}

TEST_P(ApexScopes, TwoOpenOnesAreRefused) {
  for (const auto level : kLevels) {
    TwoWeights first(1, device()), second(2, device());
    auto a = sgd(first.parameters(), 1), b = sgd(second.parameters(), 1);
    auto amp =
        apex::initialize({first, second}, apex::Optimizers{a, b}, as_is(level).num_losses(2));
    if (!amp.properties().loss_scale) {
      set_scale(amp.scaler(0), 4);
      set_scale(amp.scaler(1), 4);
    }
    const auto open = [&](torch::optim::Optimizer& outer, torch::optim::Optimizer& inner,
                          int64_t inner_id) {
      auto one = amp.scale_loss(first.forward(x()), outer);
      auto other = amp.scale_loss(second.forward(x()), inner, ScaleLossOptions().loss_id(inner_id));
      one->backward();
      other->backward();
    };
    const auto where = "[apex::Amp::scale_loss]";
    const apex::Optimizers twice{a, a};
    EXPECT_ERROR(open(a, b, 0), UsageError, where, "but one of loss 0 is still open; put each");
    EXPECT_ERROR(open(a, a, 1), UsageError, where, "but one of the same optimizer is still open");
    EXPECT_ERROR({ auto scaled = amp.scale_loss(first.forward(x()), twice); }, UsageError, where,
                 "must be named once");
    // The refusal leaves nothing open, and scopes with nothing in common may overlap.
    open(a, b, 1);
    expect_same_bits(amp.master_params(a)[1].grad().to(f32), first.weight0.detach());
    expect_same_bits(amp.master_params(b)[1].grad().to(f32), second.weight0.detach());
    EXPECT_TRUE(amp.step(a).stepped());
    EXPECT_TRUE(amp.step(b).stepped());
  }
}

TEST_P(ApexScopes, GradientsZeroedBetweenThemStayZero) {
  for (const auto level : {OptLevel::O1, OptLevel::O2}) {
    for (const auto zero : kWaysToZero) {
      for (const bool delay : {false, true}) {
        ScopeCase one(device(), level);
        one.backward();
        if (delay) one.backward(kDelay);  // the gradients of the first are put aside
        zero_gradients(zero, {one.model}, {one.optimizer});
        one.backward();
        expect_same_bits(one.gradient(0), one.model.weight1.detach().to(f32));
        expect_same_bits(one.gradient(1).to(f32), one.model.weight0.detach());
      }
    }
  }
}

TEST_P(ApexScopes, ZeroGradInsideDropsWhatWasThere) {
  ScopeCase one(device(), OptLevel::O2);
  one.backward();
  {
    auto scaled = one.amp.scale_loss(one.loss(), one.optimizer);
    one.amp.zero_grad(one.optimizer);
    scaled->backward();
  }
  expect_same_bits(one.gradient(1), one.model.weight0.detach());
}

// A delayed scope names an optimizer whose parameters its loss does not reach.
TEST_P(ApexScopes, DelayLeavesUnreachedOptimizersAlone) {
  for (const auto level : {OptLevel::O1, OptLevel::O2}) {
    TwoWeights first(1, device()), second(2, device());
    auto a = sgd(first.parameters(), 1), b = sgd(second.parameters(), 1);
    auto amp =
        apex::initialize({first, second}, apex::Optimizers{a, b}, as_is(level).num_losses(2));
    set_scale(amp.scaler(0), 4);
    set_scale(amp.scaler(1), 8);
    backward(amp, second.forward(x()), b, ScaleLossOptions().loss_id(1));
    const auto gradient = second.weight1.grad().clone();
    {
      auto scaled = amp.scale_loss(first.forward(x()), apex::Optimizers{a, b}, kDelay);
      scaled->backward();
    }
    expect_same_bits(second.weight1.grad(), gradient);
    expect_same_bits(first.weight0.grad(), 4 * first.weight1.detach().to(f32));
    // So it may step, and take part in a scope of another loss.
    backward(amp, second.forward(x()), b, ScaleLossOptions().loss_id(1));
    expect_same_bits(amp.master_params(b)[1].grad(), 2 * gradient);
    EXPECT_TRUE(amp.step(b).stepped());
    EXPECT_ERROR(amp.step(a), UsageError, "[apex::Amp::step]", "those of loss 0 were left scaled");
    // Where no loss reaches any of them, too.
    first.zero_grad();
    EXPECT_TRUE(amp.step(a).stepped()) << "zeroed, so nothing is scaled";
  }
}

TEST_P(ApexScopes, ExceptionsLeaveDelayedGradientsAsTheyWere) {
  ScopeCase one(device(), OptLevel::O2);
  one.backward();
  one.backward(kDelay);
  const auto scaled_before = one.model.weight1.grad().clone();
  for (const auto& options : {ScaleLossOptions(), kDelay})
    EXPECT_THROW(one.throw_inside(options), std::runtime_error);
  expect_same_bits(one.model.weight1.grad(), scaled_before);
  one.backward();
  expect_same_bits(one.gradient(1), 3 * one.model.weight0.detach());
}

// The next scope of a loss that made no gradients works.
TEST_P(ApexScopes, AScopeWithoutBackwardChangesNothing) {
  ScopeCase one(device(), OptLevel::O2);
  one.backward();
  const auto before = one.model.weight1.grad().clone();
  EXPECT_ERROR({ auto scaled = one.amp.scale_loss(one.loss(), one.optimizer); }, UsageError,
               "[apex::Amp::scale_loss]",
               "must make gradients for its optimizers, but there is none");
  expect_same_bits(one.gradient(1), before);
  one.backward();
  EXPECT_EQ(one.amp.scaler().growth_tracker(), 2);
}

}  // namespace halfstep::testing
