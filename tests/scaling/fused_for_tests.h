#pragma once
#include "halfstep/scaling/takes_grad_scale.h"

#include <memory>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep::testing {

/// A small optimizer that takes the scale: ATen's fused kernels under Python's contract (step
/// counts rise before the call and fall back by found_inf after it). Groups carry AdamOptions; SGD
/// uses their lr and weight_decay.
class FusedForTests : public torch::optim::Optimizer, public TakesGradScale {
 public:
  enum class Kind { adam, adamw, sgd };

  FusedForTests(std::vector<torch::optim::OptimizerParamGroup> groups, Kind kind);
  FusedForTests(std::vector<at::Tensor> parameters, Kind kind, double lr);

  at::Tensor step(LossClosure closure = nullptr) override;

  /// Steps taken by `parameter`, as its device counted them.
  double steps_of(const at::Tensor& parameter);

 private:
  struct State {
    at::Tensor steps, exp_avg, exp_avg_sq;
  };
  State& state_of(const at::Tensor& parameter);

  Kind kind_;
  std::unordered_map<const c10::TensorImpl*, State> states_;
};

}  // namespace halfstep::testing
