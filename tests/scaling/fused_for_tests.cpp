#include "tests/scaling/fused_for_tests.h"

#include <torch/optim/adam.h>
#include <torch/types.h>

namespace halfstep::testing {

using torch::optim::AdamOptions;

FusedForTests::FusedForTests(std::vector<torch::optim::OptimizerParamGroup> groups, Kind kind)
    : Optimizer(groups, std::make_unique<AdamOptions>()), kind_(kind) {}

FusedForTests::FusedForTests(std::vector<at::Tensor> parameters, Kind kind, double lr)
    : Optimizer(std::move(parameters), std::make_unique<AdamOptions>(lr)), kind_(kind) {}

FusedForTests::State& FusedForTests::state_of(const at::Tensor& parameter) {
  auto [place, absent] = states_.try_emplace(parameter.unsafeGetTensorImpl());
  if (absent)
    place->second = {torch::zeros({}, parameter.options().dtype(torch::kFloat)),
                     torch::zeros_like(parameter), torch::zeros_like(parameter)};
  return place->second;
}

double FusedForTests::steps_of(const at::Tensor& parameter) {
  return state_of(parameter).steps.item<double>();
}

at::Tensor FusedForTests::step(LossClosure closure) {
  const torch::NoGradGuard no_grad;
  TORCH_CHECK(closure == nullptr, "FusedForTests takes no closure");
  for (auto& group : param_groups_) {
    const auto& options = static_cast<const AdamOptions&>(group.options());
    std::vector<at::Tensor> parameters, gradients, exp_avgs, exp_avg_sqs, steps;
    for (const auto& parameter : group.params()) {
      if (!parameter.grad().defined()) continue;
      State& state = state_of(parameter);
      parameters.push_back(parameter);
      gradients.push_back(parameter.grad());
      exp_avgs.push_back(state.exp_avg);
      exp_avg_sqs.push_back(state.exp_avg_sq);
      steps.push_back(state.steps);
    }
    if (parameters.empty()) continue;
    const auto [beta1, beta2] = options.betas();
    at::_foreach_add_(steps, 1);
    if (kind_ == Kind::sgd) {
      at::_fused_sgd_(parameters, gradients, {}, options.weight_decay(), /*momentum=*/0.0,
                      options.lr(), /*dampening=*/0.0, /*nesterov=*/false, /*maximize=*/false,
                      /*is_first_step=*/false, grad_scale, found_inf);
    } else {
      const auto fused = [&](auto&&... arguments) {
        kind_ == Kind::adam ? at::_fused_adam_(arguments...) : at::_fused_adamw_(arguments...);
      };
      fused(at::TensorList(parameters), at::TensorList(gradients), at::TensorList(exp_avgs),
            at::TensorList(exp_avg_sqs), at::TensorList(), at::TensorList(steps), options.lr(),
            beta1, beta2, options.weight_decay(), options.eps(), /*amsgrad=*/false,
            /*maximize=*/false, grad_scale, found_inf);
    }
    if (found_inf) at::_foreach_sub_(steps, std::vector<at::Tensor>(steps.size(), *found_inf));
  }
  return {};
}

}  // namespace halfstep::testing
