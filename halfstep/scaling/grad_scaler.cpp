#include "halfstep/scaling/grad_scaler.h"

#include "halfstep/core/device.h"
#include "halfstep/core/error.h"
#include "halfstep/scaling/device_copies.h"

#include <algorithm>
#include <utility>

#include <ATen/autocast_mode.h>
#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/optim/lbfgs.h>

namespace halfstep {

namespace {

constexpr const char* kUnscale = "GradScaler::unscale_";
constexpr const char* kStep = "GradScaler::step";
constexpr const char* kUpdate = "GradScaler::update";
constexpr const char* kLoadState = "GradScaler::load_state";

/// Steps, and forgets casts of weights the step may have written without bumping their version.
at::Tensor step_and_clear_cache(torch::optim::Optimizer& optimizer,
                                torch::optim::Optimizer::LossClosure closure = nullptr) {
  auto loss = optimizer.step(std::move(closure));
  at::autocast::clear_cache();
  return loss;
}

/// Empties the two tensors of an optimizer when its step ends, however it ends.
class LentScale {
 public:
  explicit LentScale(TakesGradScale& taker) : taker_(taker) {}
  LentScale(const LentScale&) = delete;
  LentScale& operator=(const LentScale&) = delete;
  ~LentScale() {
    taker_.grad_scale.reset();
    taker_.found_inf.reset();
  }

 private:
  TakesGradScale& taker_;
};

}  // namespace

GradScaler::GradScaler(GradScalerOptions options) : options_(std::move(options)) {
  options_.validate();
  if (options_.enabled() && options_.device_type() == c10::DeviceType::CUDA && !cuda_works()) {
    TORCH_WARN(
        "[GradScaler] device_type kCUDA needs CUDA, which does not work here, so the scaler is "
        "disabled and gradients are not scaled; pass GradScalerOptions(torch::kCPU) to scale on "
        "the CPU, or enabled(false) to silence this");
    options_.enabled(false);
  }
}

void GradScaler::prepare_scale(const at::Tensor& first_output) {
  if (scale_.defined()) return;
  // update() changes them in place later, which inference tensors don't allow.
  const c10::InferenceMode normal_mode(false);
  const auto options = at::TensorOptions().device(first_output.device());
  scale_ = at::full({}, options_.init_scale(), options.dtype(c10::kFloat));
  growth_tracker_ = at::full({}, init_growth_tracker_, options.dtype(c10::kInt));
}

void GradScaler::check_scale_exists(const char* where) const {
  HALFSTEP_CHECK_USAGE(scale_.defined(), where,
                       "scale() must come first, but no output was scaled yet; call "
                       "scaler.scale(loss).backward() before");
}

at::Tensor GradScaler::scale_with(std::optional<detail::DeviceCopies>& scales,
                                  const at::Tensor& output) {
  HALFSTEP_CHECK_USAGE(output.defined(), "GradScaler::scale",
                       "outputs must be tensors, but got an undefined one; pass the loss of this "
                       "iteration");
  prepare_scale(output);
  if (!scales) scales.emplace(scale_);
  return output * scales->get(output.device());
}

at::Tensor GradScaler::scale(const at::Tensor& outputs) {
  if (!is_enabled()) return outputs;
  std::optional<detail::DeviceCopies> scales;
  return scale_with(scales, outputs);
}

std::vector<at::Tensor> GradScaler::scale(at::TensorList outputs) {
  return scale(outputs.vec());
}

FoundInfs GradScaler::divide_gradients(torch::optim::Optimizer& optimizer,
                                       const char* where) const {
  // By way of float64, as Python does: a GPU's float32 reciprocal need not be correctly rounded.
  const auto inv_scale = scale_.to(c10::kDouble).reciprocal().to(c10::kFloat);
  return detail::unscale_gradients(optimizer, inv_scale, detail::Float16Gradients::refuse, where);
}

void GradScaler::unscale_(torch::optim::Optimizer& optimizer) {
  if (!is_enabled()) return;
  check_scale_exists(kUnscale);
  Record& record = records_[&optimizer];
  HALFSTEP_CHECK_USAGE(record.stage != Stage::unscaled, kUnscale,
                       "unscale_() must come once per optimizer and iteration, but it was called "
                       "for this one already since the last update(); a second call would divide "
                       "its gradients twice: accumulate first, then unscale_() once");
  HALFSTEP_CHECK_USAGE(record.stage != Stage::stepped, kUnscale,
                       "unscale_() must come before step(), but this optimizer was stepped already "
                       "since the last update(); call update() first");
  record.found_infs = divide_gradients(optimizer, kUnscale);
  record.stage = Stage::unscaled;
}

StepResult GradScaler::step(torch::optim::Optimizer& optimizer,
                            torch::optim::Optimizer::LossClosure closure) {
  if (!is_enabled()) {
    auto loss = step_and_clear_cache(optimizer, std::move(closure));
    return StepResult::known(true, {}, std::move(loss));
  }
  HALFSTEP_CHECK_USAGE(closure == nullptr, kStep,
                       "step() must have no closure while the scaler is enabled, but got one; its "
                       "gradients would not be unscaled: call the closure's code before step(), or "
                       "use GradScalerOptions::enabled(false)");
  HALFSTEP_CHECK_USAGE(dynamic_cast<torch::optim::LBFGS*>(&optimizer) == nullptr, kStep,
                       "the optimizer must step without a closure, but got LBFGS; use another one, "
                       "or GradScalerOptions::enabled(false)");
  check_scale_exists(kStep);
  Record& record = records_[&optimizer];
  HALFSTEP_CHECK_USAGE(record.stage != Stage::stepped, kStep,
                       "step() must come once per optimizer and iteration, but this one was "
                       "stepped already since the last update(); call update() after the last "
                       "optimizer's step()");
  auto* taker = dynamic_cast<TakesGradScale*>(&optimizer);
  return taker ? step_taking_scale(optimizer, *taker, record) : step_ordinary(optimizer, record);
}

namespace {
void check_has_gradients(const FoundInfs& found_infs) {
  HALFSTEP_CHECK_USAGE(!found_infs.empty(), kStep,
                       "at least one parameter of the optimizer must have a gradient, but none "
                       "has; call backward() on a scaled loss that depends on them, or leave this "
                       "optimizer out of the iteration");
}
}  // namespace

StepResult GradScaler::step_ordinary(torch::optim::Optimizer& optimizer, Record& record) {
  if (record.stage == Stage::ready) {
    auto found_infs = divide_gradients(optimizer, kStep);
    check_has_gradients(found_infs);
    record = {Stage::unscaled, std::move(found_infs)};
  }
  check_has_gradients(record.found_infs);
  auto found_inf = combine(record.found_infs);
  const bool skip = found_inf.item<float>() != 0;
  auto loss = skip ? at::Tensor() : step_and_clear_cache(optimizer);
  record.stage = Stage::stepped;
  return StepResult::known(!skip, std::move(found_inf), std::move(loss));
}

StepResult GradScaler::step_taking_scale(torch::optim::Optimizer& optimizer, TakesGradScale& taker,
                                         Record& record) {
  const bool unscaled = record.stage == Stage::unscaled;
  if (!unscaled)
    record.found_infs =
        detail::unscale_gradients(optimizer, at::ones({}, scale_.options()),
                                  detail::Float16Gradients::allow, kStep);  // a check only
  check_has_gradients(record.found_infs);
  auto found_inf = combine(record.found_infs);
  const LentScale lent(taker);
  if (!unscaled)
    taker.grad_scale =
        taker.grad_scale ? scale_ * detail::to_device(*taker.grad_scale, scale_.device()) : scale_;
  taker.found_inf = found_inf;
  auto loss = step_and_clear_cache(optimizer);
  record.stage = Stage::stepped;
  return StepResult::on_device(std::move(found_inf), std::move(loss));
}

at::Tensor GradScaler::combine(const FoundInfs& found_infs) const {
  const c10::NoGradGuard no_grad;
  at::Tensor sum;
  for (const auto& [device, found_inf] : found_infs) {
    const auto flag = detail::to_device(found_inf, scale_.device());
    sum = sum.defined() ? sum + flag : flag;
  }
  return sum;
}

void GradScaler::update() {
  if (!is_enabled()) return;
  check_scale_exists(kUpdate);
  const c10::NoGradGuard no_grad;
  at::Tensor found_inf;
  for (const auto& [optimizer, record] : records_) {
    if (record.found_infs.empty()) continue;
    const auto flag = combine(record.found_infs);
    found_inf = found_inf.defined() ? found_inf + flag : flag;
  }
  HALFSTEP_CHECK_USAGE(found_inf.defined(), kUpdate,
                       "update() must follow step() or unscale_() of an optimizer that has "
                       "gradients, but there was none since the last update(); call "
                       "scaler.step(optimizer) before");
  at::_amp_update_scale_(scale_, growth_tracker_, found_inf, options_.growth_factor(),
                         options_.backoff_factor(), options_.growth_interval());
  records_.clear();
}

void GradScaler::update(double new_scale) {
  if (!is_enabled()) return;
  check_scale_exists(kUpdate);
  detail::check_scale(new_scale, "new_scale", kUpdate);
  scale_.fill_(new_scale);
  records_.clear();
}

void GradScaler::update(const at::Tensor& new_scale) {
  if (!is_enabled()) return;
  check_scale_exists(kUpdate);
  constexpr const char* remedy = "; pass a number, or a detached tensor of one element";
  HALFSTEP_CHECK_USAGE(new_scale.defined(), kUpdate,
                       "new_scale must be a tensor, but got an undefined one", remedy);
  HALFSTEP_CHECK_USAGE(
      new_scale.device().type() == options_.device_type(), kUpdate,
      "new_scale must lie on device type ", c10::DeviceTypeName(options_.device_type(), true),
      ", for which the scaler was made, but got one on ", new_scale.device(), remedy);
  HALFSTEP_CHECK_USAGE(new_scale.numel() == 1, kUpdate, "new_scale must have one element, but got ",
                       new_scale.numel(), remedy);
  HALFSTEP_CHECK_USAGE(!new_scale.requires_grad(), kUpdate,
                       "new_scale must not require a gradient, but got one that does", remedy);
  scale_.copy_(detail::to_device(new_scale.reshape({}), scale_.device()));
  records_.clear();
}

double GradScaler::get_scale() const {
  if (!is_enabled()) return 1.0;
  return scale_.defined() ? scale_.item<float>() : options_.init_scale();
}

int64_t GradScaler::growth_tracker() const {
  return growth_tracker_.defined() ? growth_tracker_.item<int>() : init_growth_tracker_;
}

void GradScaler::set_growth_factor(double new_factor) {
  detail::check_growth_factor(new_factor, "GradScaler::set_growth_factor");
  options_.growth_factor(new_factor);
}

void GradScaler::set_backoff_factor(double new_factor) {
  detail::check_backoff_factor(new_factor, "GradScaler::set_backoff_factor");
  options_.backoff_factor(new_factor);
}

void GradScaler::set_growth_interval(int64_t new_interval) {
  detail::check_growth_interval(new_interval, "GradScaler::set_growth_interval");
  options_.growth_interval(new_interval);
  init_growth_tracker_ = std::min(init_growth_tracker_, new_interval - 1);
  if (growth_tracker_.defined()) growth_tracker_.clamp_max_(new_interval - 1);
}

FoundInfs GradScaler::found_inf_per_device(const torch::optim::Optimizer& optimizer) const {
  const auto record = records_.find(&optimizer);
  return record == records_.end() ? FoundInfs() : record->second.found_infs;
}

std::optional<GradScalerState> GradScaler::state() const {
  if (!is_enabled()) return std::nullopt;
  return GradScalerState{get_scale(), get_growth_factor(), get_backoff_factor(),
                         get_growth_interval(), growth_tracker()};
}

void GradScaler::load_state(const std::optional<GradScalerState>& state) {
  if (!is_enabled()) return;
  HALFSTEP_CHECK_USAGE(state.has_value(), kLoadState,
                       "the state must not be empty, but it is; it was probably saved from a "
                       "disabled scaler: go on with a new GradScaler, or disable this one too");
  detail::check_scale(state->scale, "scale", kLoadState);
  detail::check_growth_factor(state->growth_factor, kLoadState);
  detail::check_backoff_factor(state->backoff_factor, kLoadState);
  detail::check_growth_interval(state->growth_interval, kLoadState);
  HALFSTEP_CHECK_USAGE(state->growth_tracker >= 0, kLoadState,
                       "growth_tracker must be 0 or more, but got ", state->growth_tracker,
                       "; the file is damaged or of another program");
  options_.init_scale(state->scale)
      .growth_factor(state->growth_factor)
      .backoff_factor(state->backoff_factor)
      .growth_interval(state->growth_interval);
  init_growth_tracker_ = std::min(state->growth_tracker, state->growth_interval - 1);
  if (scale_.defined()) {
    scale_.fill_(state->scale);
    growth_tracker_.fill_(init_growth_tracker_);
  }
  records_.clear();
}

void GradScaler::save(torch::serialize::OutputArchive& archive) const {
  write_grad_scaler_state(state(), archive);
}

void GradScaler::load(torch::serialize::InputArchive& archive) {
  load_state(read_grad_scaler_state(archive));
}

torch::serialize::OutputArchive& operator<<(torch::serialize::OutputArchive& archive,
                                            const GradScaler& scaler) {
  scaler.save(archive);
  return archive;
}

torch::serialize::InputArchive& operator>>(torch::serialize::InputArchive& archive,
                                           GradScaler& scaler) {
  scaler.load(archive);
  return archive;
}

}  // namespace halfstep
