#include "halfstep/graph/capture/step_capture.h"

#include "halfstep/optim/adagrad.h"
#include "halfstep/optim/adam.h"
#include "halfstep/optim/sgd.h"

#include <algorithm>
#include <typeinfo>
#include <unordered_set>
#include <utility>

#include <ATen/ops/empty.h>
#include <c10/util/Type.h>

namespace halfstep::detail {

namespace {

/// Gradients in their parameters, for as long as it lives.
class LentGradients {
 public:
  LentGradients(const std::vector<at::Tensor>& parameters, const std::vector<at::Tensor>& gradients)
      : parameters_(parameters) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (parameters[i].defined()) parameters[i].mutable_grad() = gradients[i];
    }
  }
  LentGradients(const LentGradients&) = delete;
  LentGradients& operator=(const LentGradients&) = delete;
  ~LentGradients() {
    for (const auto& parameter : parameters_) {
      if (parameter.defined()) parameter.mutable_grad().reset();
    }
  }

 private:
  const std::vector<at::Tensor>& parameters_;
};

/// Null for others, also for classes that derive from ours: their step may do more on the host.
optim::FusedOptimizer* fused(const SteppedOptimizer& stepped) {
  const auto& optimizer = *stepped.optimizer;
  const auto& type = typeid(optimizer);
  const bool is_ours = type == typeid(optim::Adam) || type == typeid(optim::AdamW) ||
                       type == typeid(optim::SGD) || type == typeid(optim::Adagrad);
  return is_ours ? static_cast<optim::FusedOptimizer*>(stepped.optimizer) : nullptr;
}

template <class Function>
void for_each_parameter(const std::vector<SteppedOptimizer>& optimizers, const Function& function) {
  for (const auto& stepped : optimizers) {
    for (const auto& group : stepped.optimizer->param_groups()) {
      for (const auto& parameter : group.params()) function(parameter);
    }
  }
}

}  // namespace

StepCapture::StepCapture(const std::vector<SteppedOptimizer>& optimizers, GradScaler* scaler,
                         std::vector<at::Tensor> parameters, c10::Device device, std::string never)
    : steps_(optimizers, scaler),
      optimizers_(optimizers),
      scaler_(scaler),
      parameters_(std::move(parameters)),
      device_(device),
      never_(std::move(never)) {
  forget();
}

std::string StepCapture::why_never() const {
  if (!never_.empty()) return never_;
  for (const auto& stepped : optimizers_) {
    const auto& optimizer = *stepped.optimizer;
    if (fused(stepped) == nullptr)
      return c10::demangle(typeid(optimizer).name()) +
             " steps on the host: take one of halfstep::optim with capturable(true)";
    if (!fused(stepped)->is_capturable()) return fused(stepped)->why_not_captured(device_);
  }
  std::unordered_set<const c10::TensorImpl*> listed;
  for_each_parameter(optimizers_, [&](const at::Tensor& parameter) {
    listed.insert(parameter.unsafeGetTensorImpl());
  });
  for (const auto& parameter : parameters_) {
    if (parameter.defined() && listed.count(parameter.unsafeGetTensorImpl()) == 0)
      return "a parameter that gets a gradient is in no optimizer";
  }
  return scaler_ != nullptr && scaler_->options().rank_agreement() ? scaler_->why_not_captured()
                                                                   : "";
}

std::string StepCapture::why_not_now() const {
  bool others = false;
  for_each_parameter(optimizers_, [&](const at::Tensor& parameter) {
    others = others || parameter.grad().defined();
  });
  if (others) return "there is a gradient that the graph does not make";
  const LentGradients lent(parameters_, gradients_);
  for (const auto& stepped : optimizers_) {
    if (auto why = fused(stepped)->why_not_captured(device_); !why.empty()) return why;
  }
  return scaler_ == nullptr ? "" : scaler_->why_not_captured();
}

void StepCapture::write_rates() const {
  for (const auto& stepped : optimizers_) fused(stepped)->write_rates();
}

StepCapture::Facts StepCapture::facts() const {
  Facts facts;
  for (const auto& stepped : optimizers_)
    facts.optimizers.push_back(fused(stepped)->captured_facts());
  if (scaler_ != nullptr) {
    facts.rule = scaler_->options().rule();
    facts.checks_overflow = scaler_->options().check_overflow();
  }
  return facts;
}

bool StepCapture::is_outdated() const {
  const LentGradients lent(parameters_, gradients_);
  return facts_ != facts();
}

void StepCapture::queue(const std::vector<at::Tensor>& gradients) {
  gradients_ = gradients;
  const LentGradients lent(parameters_, gradients_);
  facts_ = facts();
  try {
    queued_ = steps_.queue();
  } catch (...) {
    if (scaler_ != nullptr) scaler_->forget_step();
    throw;
  }
  norms_.clear();
  for (const auto& stepped : optimizers_)
    norms_.push_back(fused(stepped)->clips() ? fused(stepped)->grad_norm() : at::Tensor());
}

void StepCapture::forget() {
  gradients_.clear();
  for (const auto& parameter : parameters_) {
    gradients_.push_back(
        parameter.defined()
            ? at::empty({}, parameter.options().requires_grad(false)).expand(parameter.sizes())
            : at::Tensor());
  }
  queued_ = {};
  norms_.clear();
}

void StepCapture::note() const {
  const LentGradients lent(parameters_, gradients_);
  for (size_t i = 0; i < optimizers_.size(); ++i) fused(optimizers_[i])->note_step(norms_[i]);
  // A schedule copies the flag for the host at once, before the next launch writes it.
  steps_.note(queued_);
}

}  // namespace halfstep::detail
