#include "tests/scaling/scaling_case.h"

#include <cmath>

#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

namespace halfstep::testing {

Batches make_batches(c10::Device device) {
  torch::manual_seed(11);
  Batches batches;
  for (int i = 0; i < 4; ++i)
    batches.emplace_back(torch::randn({8, 8}).to(device), torch::randn({8, 8}).to(device));
  return batches;
}

torch::nn::Sequential make_model(c10::Device device) {
  torch::manual_seed(7);
  torch::nn::Sequential model(torch::nn::Linear(8, 8), torch::nn::Linear(8, 8));
  model->to(device);
  return model;
}

torch::nn::Sequential twin_of(torch::nn::Sequential model, c10::Device device) {
  auto twin = make_model(device);
  const torch::NoGradGuard no_grad;
  const auto from = model->parameters();
  const auto to = twin->parameters();
  for (std::size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i]);
  return twin;
}

at::Tensor second_weight(torch::nn::Sequential& model) {
  return model[1]->as<torch::nn::Linear>()->weight;
}

std::unique_ptr<torch::optim::Optimizer> make_sgd(std::vector<at::Tensor> parameters) {
  return std::make_unique<torch::optim::SGD>(std::move(parameters), torch::optim::SGDOptions(1.0));
}

at::Tensor TrainingRun::loss_of(const std::pair<at::Tensor, at::Tensor>& batch) const {
  auto net = model;
  return torch::mse_loss(net->forward(batch.first), batch.second);
}

namespace {

void expect_equal(const at::Tensor& got, const at::Tensor& expected, const ScalingCase& test) {
  if (!expected.defined()) {
    EXPECT_FALSE(got.defined());
  } else if (test.same_bits) {
    expect_same_bits(got, expected);
  } else {
    expect_close(got, expected, test.tolerance);
  }
}

template <class State>
void expect_equal_adam_state(const State& got, const State& expected, const ScalingCase& test) {
  EXPECT_EQ(got.step(), expected.step());
  expect_equal(got.exp_avg(), expected.exp_avg(), test);
  expect_equal(got.exp_avg_sq(), expected.exp_avg_sq(), test);
}

void expect_equal_state(torch::optim::Optimizer& got, torch::optim::Optimizer& expected,
                        const at::Tensor& got_key, const at::Tensor& expected_key,
                        const ScalingCase& test) {
  const auto wanted = expected.state().find(expected_key.unsafeGetTensorImpl());
  if (wanted == expected.state().end()) return;
  const auto found = got.state().find(got_key.unsafeGetTensorImpl());
  ASSERT_NE(found, got.state().end());
  using namespace torch::optim;
  if (auto* adam = dynamic_cast<AdamParamState*>(wanted->second.get())) {
    expect_equal_adam_state(dynamic_cast<AdamParamState&>(*found->second), *adam, test);
  } else if (auto* adamw = dynamic_cast<AdamWParamState*>(wanted->second.get())) {
    expect_equal_adam_state(dynamic_cast<AdamWParamState&>(*found->second), *adamw, test);
  } else if (auto* sgd = dynamic_cast<SGDParamState*>(wanted->second.get())) {
    expect_equal(dynamic_cast<SGDParamState&>(*found->second).momentum_buffer(),
                 sgd->momentum_buffer(), test);
  } else {
    FAIL() << "no comparison for this optimizer's state";
  }
}

}  // namespace

void check_scaling_case(const ScalingCase& test) {
  for (const bool enabled : {true, false}) {
    SCOPED_TRACE(enabled ? "scaler enabled" : "scaler disabled");
    const auto batches = make_batches(test.device);
    auto control = make_model(test.device);
    auto scaled = twin_of(control, test.device);
    const auto before = second_weight(scaled).detach().clone();
    const auto control_optimizer = test.make_optimizer(control->parameters());
    const auto scaled_optimizer = test.make_optimizer(scaled->parameters());
    GradScaler scaler(
        GradScalerOptions(test.device.type()).init_scale(128).growth_interval(1).enabled(enabled));
    TrainingRun control_run{batches, control, *control_optimizer, scaler, false};
    test.run(control_run);
    TrainingRun scaled_run{batches, scaled, *scaled_optimizer, scaler, true};
    test.run(scaled_run);

    EXPECT_EQ(scaler.get_scale(),
              enabled ? 128.0 * std::ldexp(1.0, test.grown - test.backed_off) : 1.0);
    EXPECT_FALSE(torch::equal(second_weight(scaled), before)) << "nothing was trained";
    const auto expected = control->parameters();
    const auto got = scaled->parameters();
    for (std::size_t i = 0; i < got.size(); ++i) {
      SCOPED_TRACE(c10::str("parameter ", i));
      expect_equal(got[i], expected[i], test);
      // The control's optimizer left the gradients of its last batch, unscaled like ours.
      expect_equal(got[i].grad(), expected[i].grad(), test);
      expect_equal_state(*scaled_optimizer, *control_optimizer, got[i], expected[i], test);
    }
  }
}

}  // namespace halfstep::testing
