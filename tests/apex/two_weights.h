#pragma once
#include "halfstep/apex/amp.h"

#include <string>
#include <vector>

#include <torch/nn/module.h>
#include <torch/types.h>

namespace halfstep::testing {

/// The model of Apex's tests: a float32 and a float16 weight of two elements, and a sum in float32.
struct TwoWeights : torch::nn::Module {
  TwoWeights(double unique, c10::Device device)
      : weight0(register_parameter(
            "weight0", unique + torch::arange(2, torch::device(device).dtype(torch::kFloat)))),
        weight1(register_parameter(
            "weight1", 1 + unique + torch::arange(2, torch::device(device).dtype(torch::kHalf)))) {}

  at::Tensor forward(const at::Tensor& input) {
    return ((input * weight0.to(torch::kFloat)) * weight1.to(torch::kFloat)).sum();
  }

  at::Tensor weight0, weight1;
};

/// How Apex's tests zero gradients.
enum class HowToZero { none, model, optimizer };
inline constexpr HowToZero kWaysToZero[] = {HowToZero::none, HowToZero::model,
                                            HowToZero::optimizer};

inline void zero_gradients(HowToZero how, const apex::Models& models,
                           const apex::Optimizers& optimizers) {
  if (how == HowToZero::optimizer) {
    for (torch::optim::Optimizer& optimizer : optimizers) optimizer.zero_grad();
    return;
  }
  for (torch::nn::Module& model : models) {
    if (how == HowToZero::model) model.zero_grad();
    if (how == HowToZero::none) {
      for (auto& parameter : model.parameters()) parameter.mutable_grad().reset();
    }
  }
}

/// As Apex's tests make the model: mixed already, so no casts.
inline apex::AmpOptions as_is(apex::OptLevel level) {
  return apex::AmpOptions(level).cast_model_type(std::nullopt).allow_incoming_model_not_fp32(true);
}

inline void set_scale(GradScaler& scaler, double scale) {
  auto state = *scaler.state();
  state.scale = scale;
  scaler.load_state(state);
}

inline constexpr apex::OptLevel kLevels[] = {apex::OptLevel::O0, apex::OptLevel::O1,
                                             apex::OptLevel::O2, apex::OptLevel::O3};

}  // namespace halfstep::testing
