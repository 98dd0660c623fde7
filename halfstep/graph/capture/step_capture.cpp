#include "halfstep/graph/capture/step_capture.h"

#include <stdexcept>
#include <utility>

#include <c10/util/Type.h>

namespace halfstep::detail {

namespace {

/// The gradients of the capture in the parameters, for as long as it lives.
class LentGradients {
 public:
  LentGradients(const std::vector<at::Tensor>& parameters, const std::vector<at::Tensor>& gradients)
      : parameters_(parameters) {
    for (size_t i = 0; i < parameters.size(); ++i) parameters[i].mutable_grad() = gradients[i];
  }
  LentGradients(const LentGradients&) = delete;
  LentGradients& operator=(const LentGradients&) = delete;
  ~LentGradients() {
    for (const auto& parameter : parameters_) parameter.mutable_grad().reset();
  }

 private:
  const std::vector<at::Tensor>& parameters_;
};

optim::FusedOptimizer* fused(const SteppedOptimizer& stepped) {
  return dynamic_cast<optim::FusedOptimizer*>(stepped.optimizer);
}

/// The same with a tensor of its own: the next launch writes the capture's.
StepResult kept(const StepResult& result) {
  return result.is_known() ? result : StepResult::on_device(result.found_inf().clone(), {});
}

}  // namespace

StepCapture::StepCapture(const std::vector<SteppedOptimizer>& optimizers, GradScaler* scaler,
                         std::vector<at::Tensor> parameters, c10::Device device)
    : steps_(optimizers, scaler),
      optimizers_(optimizers),
      scaler_(scaler),
      parameters_(std::move(parameters)),
      device_(device) {}

std::string StepCapture::why_not() const {
  for (const auto& stepped : optimizers_) {
    const auto& optimizer = *stepped.optimizer;
    if (fused(stepped) == nullptr)
      return c10::demangle(typeid(optimizer).name()) +
             " steps on the host: take one of halfstep::optim with capturable(true)";
    if (auto why = fused(stepped)->why_not_captured(device_); !why.empty()) return why;
  }
  return scaler_ == nullptr ? "" : scaler_->why_not_captured();
}

void StepCapture::prepare() const {
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

void StepCapture::queue(const std::vector<at::Tensor>& gradients) {
  gradients_ = gradients;
  const LentGradients lent(parameters_, gradients_);
  if (const auto why = why_not(); !why.empty()) throw std::runtime_error(why);
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
  queued_ = {};
  norms_.clear();
}

void StepCapture::note() const {
  const LentGradients lent(parameters_, gradients_);
  for (size_t i = 0; i < optimizers_.size(); ++i) fused(optimizers_[i])->note_step(norms_[i]);
  auto queued = queued_;
  for (size_t i = 0; i < optimizers_.size(); ++i) {
    if (optimizers_[i].scheduler != nullptr) queued.results[i] = kept(queued.results[i]);
  }
  steps_.note(queued);
}

}  // namespace halfstep::detail
