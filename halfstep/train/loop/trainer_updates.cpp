// What becomes of a trainer's updates: their outcomes, which a GPU tells late, and the numbers that
// must stay finite.
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/core/low_precision_support.h"
#include "halfstep/train/loop/trainer.h"

#include <algorithm>
#include <cmath>
#include <iostream>

#include <ATen/ops/isfinite.h>

namespace halfstep::train {

namespace {
// Reading the loss of a CUDA step waits for the device.
constexpr int64_t check_cuda_loss_every = 200;
// A loss scale answers a bad batch by skipping its step; so many in a row are no accident.
constexpr int64_t max_skips_without_loss = 10;

// "nan" also where its sign bit is set.
std::string number_text(double value) {
  return std::isnan(value) ? "nan" : c10::str(value);
}

// Of several wrappers each dtype once.
std::string dtype_names(const std::vector<WrapperParts>& wrappers) {
  std::string names;
  for (const auto& parts : wrappers) {
    const auto name = dtype_name(parts.amp.enabled ? parts.amp.dtype : c10::kFloat);
    if (names.empty())
      names = name;
    else if (names != name && !names.ends_with(" " + name))
      names += " and " + name;
  }
  return names;
}

}  // namespace

void Trainer::observe(size_t wrapper) {
  auto& each = *parts_.wrappers[wrapper].wrapper;
  each.before_step([this, wrapper] { before_update(wrapper); });
  each.after_step([this, wrapper](const StepResult& result) { after_update(wrapper, result); });
}

void Trainer::before_update(size_t wrapper) {
  observe_ops(false);
  ranks_.check_reduced(wrapper);
  settle();  // the update before, whose successor a GPU has been given by now
  active_ = wrapper;
  parts_.hooks.for_each([&](Hook& hook) { hook.after_backward(*this); });
  const auto& parts = parts_.wrappers[wrapper];
  // As MMEngine: with groups of their own rates the rate that they come from goes before the
  // first's.
  if (parts.wrapper->base_settings() != nullptr)
    message_hub_.update_scalar("train/" + parts.named("base_lr"), parts.learning_rate());
  message_hub_.update_scalar("train/" + parts.named("lr"),
                             parts.wrapper->param_groups().front().options().get_lr());
}

void Trainer::after_update(size_t wrapper, const StepResult& result) {
  active_ = 0;
  auto& run = runs_[wrapper];
  const auto& parts = parts_.wrappers[wrapper];
  run.outcome.note(result);
  run.step = progress_.step + 1;
  ++run.counts.updates;
  if (const auto& norm = parts.wrapper->grad_norm(); norm.defined())
    message_hub_.update_scalar("train/" + parts.named("grad_norm"), norm);
  // Of several wrappers this one may be given another loss before the iteration ends.
  if (parts_.dict && parts.scaler() && parts.scaler()->diagnosis()) settle();
  observe_ops(true);
}

const GradScaler& Trainer::scaler() const {
  const auto* scaler = active_wrapper().scaler();
  return scaler != nullptr ? *scaler : no_scaler_;
}

GradScaler& Trainer::scaler() {
  auto* scaler = active_wrapper().scaler();
  return scaler != nullptr ? *scaler : no_scaler_;
}

int64_t Trainer::skipped_in_a_row() const {
  int64_t most = 0;
  for (const auto& run : runs_) most = std::max(most, run.skipped_in_a_row);
  return most;
}

/// Returns false where there was none.
bool Trainer::take_outcome(size_t wrapper) {
  auto& run = runs_[wrapper];
  const auto result = run.outcome.take();
  if (!result) return false;
  active_ = wrapper;
  parts_.hooks.for_each([&](Hook& hook) { hook.after_outcome(*this, *result); });
  active_ = 0;
  run.skipped_in_a_row = result->stepped() ? 0 : run.skipped_in_a_row + 1;
  if (!result->stepped()) {
    ++run.counts.skipped_steps;
    ++progress_.skipped_steps;
  }
  return true;
}

void Trainer::settle() {
  bool any = false;
  for (size_t i = 0; i < runs_.size(); ++i) any = take_outcome(i) || any;
  if (!any) return;
  bool fell = false;
  for (size_t i = 0; i < runs_.size(); ++i) fell = check_overflows(i) || fell;
  if (fell) return;  // the loss at hand is the overflow's
  if (device_.is_cpu() || progress_.step % check_cuda_loss_every == 0 ||
      skipped_in_a_row() >= max_skips_without_loss)
    check_numbers();
}

std::string Trainer::place() const {
  return c10::str("at step ", progress_.step, " (epoch ", progress_.epoch + 1, ", batch ",
                  progress_.batch, ")");
}

bool Trainer::check_overflows(size_t wrapper) {
  const auto& parts = parts_.wrappers[wrapper];
  const auto diagnosis = parts.scaler() ? parts.scaler()->diagnosis() : std::nullopt;
  if (!diagnosis) return false;
  const auto whose = parts.name.empty() ? "" : " of '" + parts.name + "'";
  HALFSTEP_CHECK_USAGE(parts.amp.loss_scale.options.at_min_scale() != AtMinScale::stop, "train",
                       "overflows must end once the loss scale", whose, " is at its minimum, but ",
                       place(), " ", diagnosis->what(), "; ", diagnosis->advice(),
                       "; the learning rate is ", learning_rate());
  fall_back(wrapper);
  std::cerr << "warning: the loss scale" << whose << " is off from now on and the layers run in "
            << parts.amp.describe_dtype() << ", because " << place() << " " << diagnosis->what()
            << "\n";
  if (!parts.amp.enabled) return true;
  if (const auto notice = missing_support_notice(device_, parts.amp.dtype); !notice.empty())
    std::cerr << "note: " << notice << "\n";
  return true;
}

void Trainer::fall_back(size_t wrapper) {
  parts_.wrappers[wrapper].fall_back();
  runs_[wrapper].fell_back = true;
}

void Trainer::check_numbers() const {
  const auto skipped = skipped_in_a_row();
  const auto stops = [](const WrapperParts& parts) {
    return parts.amp.loss_scale.options.at_min_scale() == AtMinScale::stop;
  };
  // A skipped step did no harm yet, and other policies than stop go on whatever the loss is.
  if (skipped > 0 && (skipped < max_skips_without_loss ||
                      !std::all_of(parts_.wrappers.begin(), parts_.wrappers.end(), stops)))
    return;
  for (const auto& item : log_vars_) {
    if (item.key().find("loss") == std::string::npos) continue;
    const auto loss = item.value().item<double>();
    const auto skips = skipped > 0 ? c10::str(", after ", skipped, " skipped steps in a row") : "";
    HALFSTEP_CHECK_USAGE(std::isfinite(loss), "train", "the loss",
                         item.key() == "loss" ? "" : " '" + item.key() + "'",
                         " must be finite, but got ", number_text(loss), " ", place(), " in ",
                         dtype_names(parts_.wrappers), skips, "; lower the learning rate (",
                         learning_rate(), ") or look for inf and NaN in the data");
  }
}

void Trainer::check_weights() const {
  for (const auto& parts : parts_.wrappers) {
    size_t index = 0;
    for (const auto& group : parts.wrapper->param_groups())
      for (const auto& weight : group.params()) {
        const auto& name = parts.parameter_names[index++];
        HALFSTEP_CHECK_USAGE(at::isfinite(weight).all().item<bool>(), "train",
                             "weights must be finite to be saved, but '", name,
                             "' has inf or NaN after step ", progress_.step,
                             "; earlier checkpoints are kept: lower the learning rate (",
                             learning_rate(), ") or look for inf and NaN in the data");
      }
  }
}

void Trainer::check_any_step_taken() const {
  int64_t updates = 0;
  for (const auto& run : runs_) updates += run.counts.updates;
  HALFSTEP_CHECK_USAGE(updates > 0, "train", "a run must take steps, but got none in ",
                       progress_.step,
                       " iterations; lower accumulative_counts, or train for more of them");
  for (size_t i = 0; i < runs_.size(); ++i) {
    const auto& counts = runs_[i].counts;
    const auto& parts = parts_.wrappers[i];
    if (counts.updates == 0)
      std::cerr << "warning: '" << parts.name << "' made no step in the whole run of "
                << progress_.step << " iterations\n";
    HALFSTEP_CHECK_USAGE(counts.updates == 0 || counts.skipped_steps < counts.updates, "train",
                         "a run must take steps, but all ", counts.updates,
                         parts.name.empty() ? "" : " of '" + parts.name + "'",
                         " were skipped because a gradient overflowed; lower the loss scale (",
                         parts.scaler() ? parts.scaler()->get_scale() : 1.0,
                         ") or look for inf and NaN in the data");
  }
}

}  // namespace halfstep::train
