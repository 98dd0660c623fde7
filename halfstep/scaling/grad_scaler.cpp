#include "halfstep/scaling/grad_scaler.h"

#include "halfstep/autocast/cast_cache.h"
#include "halfstep/core/device.h"
#include "halfstep/core/error.h"
#include "halfstep/scaling/device_copies.h"
#include "halfstep/scaling/guarded_step.h"
#include "halfstep/scaling/lbfgs_snapshot.h"
#include "halfstep/scaling/rank_agreement.h"

#include <cmath>
#include <utility>

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

namespace halfstep {

namespace {

constexpr const char* kUnscale = "GradScaler::unscale_";
constexpr const char* kStep = "GradScaler::step";
constexpr const char* kUpdate = "GradScaler::update";

}  // namespace

GradScaler::GradScaler(GradScalerOptions options)
    : options_(std::move(options)),
      scale_state_(detail::start_values(options_.rule(), options_.init_scale())),
      watch_(options_.report_size()) {
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
  const bool watch = options_.at_min_scale() != AtMinScale::keep_going;
  scale_state_.materialize(options_.rule(), first_output.device(), watch);
}

void GradScaler::check_scale_exists(const char* where) const {
  HALFSTEP_CHECK_USAGE(scale_state_.defined(), where,
                       "scale() must come first, but no output was scaled yet; call "
                       "scaler.scale(loss).backward() before");
}

at::Tensor GradScaler::scale_with(std::optional<detail::DeviceCopies>& scales,
                                  const at::Tensor& output) {
  HALFSTEP_CHECK_USAGE(output.defined(), "GradScaler::scale",
                       "outputs must be tensors, but got an undefined one; pass the loss of this "
                       "iteration");
  prepare_scale(output);
  if (!scales) scales.emplace(get_scale_async());
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
  const auto inv_scale = get_scale_async().to(c10::kDouble).reciprocal().to(c10::kFloat);
  const auto float16 = options_.float16_gradients() ? detail::Float16Gradients::allow
                                                    : detail::Float16Gradients::refuse;
  return detail::unscale_gradients(optimizer, inv_scale, float16, where);
}

GradScaler::Record& GradScaler::record_of(torch::optim::Optimizer& optimizer) {
  auto [place, absent] = records_.try_emplace(&optimizer);
  if (absent) {
    place->second.optimizer = &optimizer;
    place->second.number =
        numbers_.try_emplace(&optimizer, static_cast<int64_t>(numbers_.size())).first->second;
  }
  return place->second;
}

void GradScaler::note(Record& record, FoundInfs found_infs) {
  record.found_infs = std::move(found_infs);
  record.found_inf = combine(record.found_infs);
  const auto& ranks = options_.rank_agreement();
  if (!ranks || !options_.check_overflow()) return;
  const at::Tensor& scale = get_scale_async();
  // A rank without gradients must join the others nevertheless.
  if (!record.found_inf.defined()) record.found_inf = at::zeros_like(scale);
  record.found_inf = ranks->largest(record.found_inf, scale, std::exchange(compare_ranks_, false));
}

void GradScaler::unscale_(torch::optim::Optimizer& optimizer) {
  if (!is_enabled()) return;
  check_scale_exists(kUnscale);
  Record& record = record_of(optimizer);
  HALFSTEP_CHECK_USAGE(record.stage != Stage::unscaled, kUnscale,
                       "unscale_() must come once per optimizer and iteration, but it was called "
                       "for this one already since the last update(); a second call would divide "
                       "its gradients twice: accumulate first, then unscale_() once");
  HALFSTEP_CHECK_USAGE(record.stage != Stage::stepped, kUnscale,
                       "unscale_() must come before step(), but this optimizer was stepped already "
                       "since the last update(); call update() first");
  note(record, divide_gradients(optimizer, kUnscale));
  if (record.found_inf.defined()) record.stage = Stage::unscaled;
}

StepResult GradScaler::step(torch::optim::Optimizer& optimizer,
                            torch::optim::Optimizer::LossClosure closure) {
  auto* taker = dynamic_cast<TakesGradScale*>(&optimizer);
  if (!is_enabled()) {
    std::optional<detail::LentScale> preset;
    if (taker != nullptr) preset.emplace(*taker);
    auto loss = detail::step_and_clear_cache(optimizer, std::move(closure));
    return StepResult::known(true, {}, std::move(loss));
  }
  auto* lbfgs = dynamic_cast<torch::optim::LBFGS*>(&optimizer);
  HALFSTEP_CHECK_USAGE(closure == nullptr || lbfgs != nullptr, kStep,
                       "step() must have no closure while the scaler is enabled, but got one; its "
                       "gradients would not be unscaled: call the closure's code before step(), or "
                       "use GradScalerOptions::enabled(false)");
  if (lbfgs == nullptr) check_scale_exists(kStep);
  Record& record = record_of(optimizer);
  HALFSTEP_CHECK_USAGE(record.stage != Stage::stepped, kStep,
                       "step() must come once per optimizer and iteration, but this one was "
                       "stepped already since the last update(); call update() after the last "
                       "optimizer's step()");
  if (lbfgs != nullptr) return step_lbfgs(*lbfgs, closure, record);
  return taker ? step_taking_scale(optimizer, *taker, record) : step_ordinary(optimizer, record);
}

namespace {
void check_has_gradients(const at::Tensor& found_inf) {
  HALFSTEP_CHECK_USAGE(found_inf.defined(), kStep,
                       "at least one parameter of the optimizer must have a gradient, but none "
                       "has; call backward() on a scaled loss that depends on them, or leave this "
                       "optimizer out of the iteration");
}
}  // namespace

StepResult GradScaler::step_ordinary(torch::optim::Optimizer& optimizer, Record& record) {
  if (record.stage == Stage::ready) {
    note(record, divide_gradients(optimizer, kStep));
    check_has_gradients(record.found_inf);
    record.stage = Stage::unscaled;
  }
  check_has_gradients(record.found_inf);
  auto result =
      detail::step_unless(optimizer, options_.check_overflow() ? record.found_inf : at::Tensor());
  record.stage = Stage::stepped;
  return result;
}

namespace {
/// Leaves LBFGS from within its closure.
struct Overflow {};
}  // namespace

StepResult GradScaler::step_lbfgs(torch::optim::LBFGS& optimizer,
                                  const torch::optim::Optimizer::LossClosure& closure,
                                  Record& record) {
  HALFSTEP_CHECK_USAGE(
      closure != nullptr, kStep,
      "LBFGS must have a closure, but got none; call scaler.step(lbfgs, closure) "
      "with one that zeroes the gradients, calls scaler.scale(loss).backward() and "
      "returns the loss");
  HALFSTEP_CHECK_USAGE(record.stage == Stage::ready, kStep,
                       "unscale_() must not be called for LBFGS, whose closure computes gradients "
                       "anew, but it was; leave it out, step() unscales them");
  detail::LbfgsSnapshot before(optimizer);
  at::Tensor loss;
  bool stepped = true;
  try {
    loss = detail::step_and_clear_cache(optimizer, [&] {
      // What LBFGS wrote between two evaluations must not be hidden by an old cast.
      detail::clear_cast_cache();
      auto value = closure();
      check_scale_exists(kStep);
      note(record, divide_gradients(optimizer, kStep));
      check_has_gradients(record.found_inf);
      if (options_.check_overflow() && record.found_inf.item<float>() != 0) throw Overflow();
      return value;
    });
  } catch (const Overflow&) {
    before.restore();
    detail::clear_cast_cache();
    stepped = false;
  } catch (...) {
    before.restore();
    detail::clear_cast_cache();
    records_.erase(&optimizer);
    throw;
  }
  record.stage = Stage::stepped;
  return StepResult::known(stepped, record.found_inf, std::move(loss));
}

StepResult GradScaler::step_taking_scale(torch::optim::Optimizer& optimizer, TakesGradScale& taker,
                                         Record& record) {
  const at::Tensor& scale = get_scale_async();
  const bool unscaled = record.stage == Stage::unscaled;
  at::Tensor found_inf;
  if (options_.check_overflow()) {
    if (!unscaled) {
      auto checked = taker.check_gradients();
      note(record, checked ? std::move(*checked)
                           : detail::unscale_gradients(optimizer, at::ones({}, scale.options()),
                                                       detail::Float16Gradients::allow, kStep));
    }
    check_has_gradients(record.found_inf);
    found_inf = record.found_inf;
  }
  const detail::LentScale lent(taker);
  if (taker.grad_scale) taker.grad_scale = detail::to_device(*taker.grad_scale, scale.device());
  if (!unscaled) taker.grad_scale = taker.grad_scale ? scale * *taker.grad_scale : scale;
  auto result = detail::step_unless(optimizer, found_inf);
  record.stage = Stage::stepped;
  return result;
}

at::Tensor GradScaler::combine(const FoundInfs& found_infs) const {
  const c10::NoGradGuard no_grad;
  at::Tensor sum;
  for (const auto& [device, found_inf] : found_infs) {
    const auto flag = detail::to_device(found_inf, get_scale_async().device());
    sum = sum.defined() ? sum + flag : flag;
  }
  return sum;
}

at::Tensor GradScaler::all_found_infs() const {
  at::Tensor sum;
  for (const auto& [optimizer, record] : records_) {
    if (!record.found_inf.defined()) continue;
    sum = sum.defined() ? sum + record.found_inf : record.found_inf;
  }
  return sum;
}

template <class Move>
GradScaler::QueuedUpdate GradScaler::queue_update_by(const at::Tensor& found_inf,
                                                     const Move& move) {
  QueuedUpdate update;
  if (options_.check_overflow()) update.found_inf_ = found_inf;
  if (update.found_inf_.defined()) update.before_ = watch_.begin_update(scale_state_);
  move();
  update.records_ = std::exchange(records_, {});
  return update;
}

GradScaler::QueuedUpdate GradScaler::queue_update() {
  if (!is_enabled()) return {};
  check_scale_exists(kUpdate);
  const c10::NoGradGuard no_grad;
  const auto found_inf = all_found_infs();
  const bool unchecked = !options_.check_overflow() && !records_.empty();
  HALFSTEP_CHECK_USAGE(found_inf.defined() || unchecked, kUpdate,
                       "update() must follow step() or unscale_() of an optimizer that has "
                       "gradients, but there was none since the last update(); call "
                       "scaler.step(optimizer) before");
  return queue_update_by(found_inf, [&] {
    if (options_.check_overflow()) scale_state_.update(options_.rule(), found_inf);
  });
}

void GradScaler::write_history(const QueuedUpdate& update) {
  if (!update.found_inf_.defined()) return;
  const c10::NoGradGuard no_grad;
  std::vector<detail::CheckedOptimizer> checked;
  for (const auto& [optimizer, record] : update.records_)
    checked.push_back({record.number, record.optimizer, &record.found_infs, record.found_inf,
                       record.stage == Stage::stepped});
  watch_.end_update(update.before_, scale_state_, update.found_inf_, checked,
                    options_.min_scale_patience());
}

void GradScaler::note_update(const QueuedUpdate& update) {
  if (!is_enabled()) return;
  write_history(update);
  if (options_.at_min_scale() != AtMinScale::stop || !diagnosis()) return;
  HALFSTEP_CHECK_USAGE(diagnosis()->in_a_row_at_minimum < options_.min_scale_patience(), kUpdate,
                       "overflows must end once the scale is at its minimum, but ",
                       diagnosis()->what(), "; ", diagnosis()->advice());
}

void GradScaler::update() {
  note_update(queue_update());
}

std::string GradScaler::why_not_captured() const {
  if (!is_enabled()) return "";
  if (options_.rank_agreement()) return "ranks agree on overflows over a process group";
  if (!scale_state_.defined() || (options_.check_overflow() && !watch_.has_begun()))
    return "the scaler has yet to make its first update";
  return records_.empty() ? "" : "optimizers were unscaled or stepped since the last update";
}

void GradScaler::update(double new_scale) {
  if (!is_enabled()) return;
  check_scale_exists(kUpdate);
  detail::check_scale(new_scale, "new_scale", kUpdate);
  const c10::NoGradGuard no_grad;
  const auto found_inf = all_found_infs();
  write_history(queue_update_by(found_inf, [&] { scale_state_.assign(new_scale); }));
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
  const c10::NoGradGuard no_grad;
  const auto found_inf = all_found_infs();
  write_history(queue_update_by(found_inf, [&] {
    scale_state_.assign(detail::to_device(new_scale.reshape({}), get_scale_async().device()));
  }));
}

double GradScaler::get_scale() const {
  if (!is_enabled()) return 1.0;
  return scale_state_.values().scale;
}

int64_t GradScaler::growth_tracker() const {
  return scale_state_.values().growth_tracker;
}

int64_t GradScaler::hysteresis_tracker() const {
  return scale_state_.values().hysteresis_tracker;
}

void GradScaler::set_growth_factor(double new_factor) {
  detail::check_growth_factor(new_factor, "GradScaler::set_growth_factor");
  options_.growth_factor(new_factor);
}

void GradScaler::set_backoff_factor(double new_factor) {
  constexpr const char* where = "GradScaler::set_backoff_factor";
  detail::check_backoff_factor(new_factor, where);
  HALFSTEP_CHECK_USAGE(!options_.backoff_divides(), where,
                       "the rule must back off by a factor, but it divides by growth_factor; use "
                       "set_growth_factor, or GradScalerOptions::backoff_divides(false)");
  options_.backoff_factor(new_factor);
}

void GradScaler::set_growth_interval(int64_t new_interval) {
  detail::check_growth_interval(new_interval, "GradScaler::set_growth_interval");
  options_.growth_interval(new_interval);
  scale_state_.clamp_growth_tracker(options_.rule());
}

void GradScaler::name_parameters(const torch::OrderedDict<std::string, at::Tensor>& named) {
  detail::ParameterNames names;
  for (const auto& item : named) names.emplace(item.value().unsafeGetTensorImpl(), item.key());
  watch_.name_parameters(std::move(names));
}

FoundInfs GradScaler::found_inf_per_device(const torch::optim::Optimizer& optimizer) const {
  const auto record = records_.find(&optimizer);
  return record == records_.end() ? FoundInfs() : record->second.found_infs;
}

}  // namespace halfstep
