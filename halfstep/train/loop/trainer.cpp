#include "halfstep/train/loop/trainer.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/core/low_precision_support.h"
#include "halfstep/inspect/precision_recorder.h"
#include "halfstep/train/data/to_device.h"
#include "halfstep/train/files/atomic_file.h"
#include "halfstep/train/loop/precision_json.h"
#include "halfstep/train/loop/stop_signal.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <utility>

#include <ATen/ops/isfinite.h>

namespace halfstep::train {

namespace {
// Counting every step would cost a tenth of a small one.
constexpr int64_t count_dtypes_every = 50;
// Reading the loss of a CUDA step waits for the device.
constexpr int64_t check_cuda_loss_every = 200;
// A loss scale answers a bad batch by skipping its step; so many in a row are no accident.
constexpr int64_t max_skips_without_loss = 10;

// "nan" also where its sign bit is set.
std::string number_text(double value) {
  return std::isnan(value) ? "nan" : c10::str(value);
}

/// The loop words the error, as it knows the step and the epoch.
GradScalerOptions without_stop(GradScalerOptions options) {
  if (options.at_min_scale() == AtMinScale::stop) options.at_min_scale(AtMinScale::fall_back);
  return options;
}
}  // namespace

Trainer::Trainer(Config config, const RunOptions& options)
    : device_(options.device),
      load_from_(read_load_from(config, options)),
      resume_point_(find_resume_point(options, load_from_)),
      parts_(build_training(config, options,
                            resume_point_ ? std::optional(resume_point_->seed) : std::nullopt)),
      scaler_(without_stop(parts_.amp.loss_scale.options)),
      work_dir_(options.work_dir),
      outcome_(options.late_outcomes),
      wants_precision_report_(options.precision_report) {
  scaler_.name_parameters(parts_.model->named_parameters());
  if (resume_point_) {
    resume();
  } else {
    if (!load_from_.empty()) load_initial_weights(*this, load_from_);
    if (!options.resume) put_aside_ = work_dir_.put_earlier_run_aside();
  }
  write_file(work_dir_.config_file(), parts_.resolved_config);
}

void Trainer::resume() {
  restore_state(*this, *resume_point_);
  resumed_from_ = resume_point_->source;
  resume_point_.reset();
  first_step_ = progress_.step;
  // Files are compared as files: paths may go different ways.
  std::error_code ignored;
  const auto folder = std::filesystem::absolute(resumed_from_).parent_path();
  const bool own = std::filesystem::equivalent(folder, work_dir_.checkpoint_folder(), ignored);
  put_aside_ = own ? work_dir_.put_later_checkpoints_aside(progress_.step)
                   : work_dir_.put_earlier_run_aside();
  if (own && std::filesystem::equivalent(resumed_from_, work_dir_.checkpoint_file(progress_.step),
                                         ignored))
    saved_ = progress_;
}

double Trainer::learning_rate() const {
  return parts_.optimizer->param_groups().front().options().get_lr();
}

Trainer::Outcome Trainer::train() {
  const StopSignal signal;
  const HalfRehearsal rehearsal(parts_.amp.rehearses());
  parts_.model->train();
  const auto stop = [&] {
    stop_signal_ = signal.received();
    return stop_requested_ || stop_signal_ != 0;
  };
  parts_.hooks.for_each([&](Hook& hook) { hook.before_run(*this); });
  bool stopped = stop();
  const bool was_finished = is_finished();
  // A run that was stopped before its validation, or in it, is resumed with it.
  if (!stopped && progress_.val_due) stopped = !validate(stop) || stop();
  if (!stopped) stopped = parts_.loop.by_epoch ? train_by_epoch(stop) : train_by_iter(stop);
  if (!parts_.loop.by_epoch && is_finished() && !was_finished) finish_big_epoch();
  // What came too late to shorten the run does not make it a stopped one.
  if (is_finished()) {
    stopped = false;
    stop_signal_ = 0;
    check_any_step_taken();
  }
  if (stopped) save_checkpoint();
  parts_.hooks.for_each([&](Hook& hook) { hook.after_run(*this); });
  return stopped ? Outcome::stopped : Outcome::finished;
}

bool Trainer::is_finished() const {
  const int64_t done = parts_.loop.by_epoch ? progress_.epoch : progress_.step;
  return done >= parts_.loop.length && !progress_.val_due;
}

/// Returns true where `stop` ended it.
bool Trainer::train_by_epoch(const Stop& stop) {
  bool stopped = false;
  while (!stopped && !is_finished()) {
    const int64_t batches = parts_.train_loader->num_batches();
    parts_.train_loader->set_epoch(progress_.epoch);
    if (progress_.batch < batches)
      parts_.hooks.for_each([&](Hook& hook) { hook.before_train_epoch(*this); });
    while (!stopped && progress_.batch < batches) {
      run_iter();
      stopped = stop();
    }
    if (stopped) break;  // also after the last batch: the epoch ends when the run is resumed
    finish_epoch();
    stopped = (progress_.val_due && !validate(stop)) || stop();
  }
  return stopped;
}

/// The same, as one big epoch over as many passes over the data as it takes.
bool Trainer::train_by_iter(const Stop& stop) {
  if (is_finished()) return false;
  parts_.hooks.for_each([&](Hook& hook) { hook.before_train_epoch(*this); });
  bool stopped = false;
  while (!stopped && !is_finished()) {
    if (progress_.batch == parts_.train_loader->num_batches()) {
      ++progress_.epoch;
      progress_.batch = 0;
    }
    parts_.train_loader->set_epoch(progress_.epoch);
    run_iter();
    stopped = stop();
    if (!stopped && progress_.val_due) stopped = !validate(stop) || stop();
  }
  return stopped;
}

void Trainer::finish_big_epoch() {
  settle();
  parts_.hooks.for_each([&](Hook& hook) { hook.after_train_epoch(*this); });
  save_requested();
}

void Trainer::finish_epoch() {
  settle();
  ++progress_.epoch;
  progress_.batch = 0;
  progress_.val_due = parts_.test_loader && parts_.loop.validates_after(progress_.epoch);
  parts_.hooks.for_each([&](Hook& hook) { hook.after_train_epoch(*this); });
  save_requested();
}

/// Returns false, and leaves the validation to be made, where `stop` came first.
bool Trainer::validate(const Stop& stop) {
  if (!parts_.test_loader) {  // the run that was saved had one
    progress_.val_due = false;
    return true;
  }
  settle();
  const auto each = [this](auto&& f) { parts_.hooks.for_each(f); };
  each([&](Hook& hook) { hook.before_val_epoch(*this); });
  EvaluateOptions options{.stop = stop};
  options.before_batch = [&](int64_t number, const Batch& batch) {
    each([&](Hook& hook) { hook.before_val_iter(*this, number, batch); });
  };
  options.after_batch = [&](int64_t number, const Batch& batch) {
    each([&](Hook& hook) { hook.after_val_iter(*this, number, batch); });
  };
  evaluation_ = evaluate(*parts_.model, parts_.loss, *parts_.test_loader, device_, parts_.amp,
                         parts_.evaluator, options);
  if (evaluation_) progress_.val_due = false;
  const auto metrics = evaluation_ ? evaluation_->metrics : Metrics();
  each([&](Hook& hook) { hook.after_val_epoch(*this, metrics); });
  save_requested();
  return evaluation_.has_value();
}

/// One step with its hooks. Where it fails and the failure is LibTorch's own, the error says which
/// step it was.
void Trainer::run_iter() {
  const auto step = progress_.step + 1;
  const auto at_step = [&](const auto& part) {
    try {
      return part();
    } catch (const c10::OutOfMemoryError& error) {
      halfstep::detail::raise<EnvironmentError>(
          "train", "step ", step,
          " must fit into memory, but LibTorch says: ", error.what_without_backtrace(),
          "; make batch_size or the model smaller");
    } catch (const c10::Error& error) {
      halfstep::detail::raise<UsageError>(
          "train", "step ", step, " must run, but LibTorch says: ", error.what_without_backtrace(),
          "; check that the data's shape fits the model, and that every label is below the number "
          "of the model's outputs");
    }
  };
  const auto batch = at_step([&] { return parts_.train_loader->batch(progress_.batch); });
  parts_.hooks.for_each([&](Hook& hook) { hook.before_train_iter(*this, batch); });
  at_step([&] { train_step(batch); });
  parts_.hooks.for_each([&](Hook& hook) { hook.after_train_iter(*this, batch); });
  save_requested();
}

void Trainer::train_step(const Batch& batch) {
  parts_.optimizer->zero_grad();
  const auto loss = forward_and_backward(to_device(batch, device_));
  settle();  // the step before, whose successor a GPU has been given by now
  parts_.hooks.for_each([&](Hook& hook) { hook.after_backward(*this); });
  message_hub_.update_scalar("train/lr", learning_rate());
  outcome_.note(scaler_.step(*parts_.optimizer));
  scaler_.update();
  loss_ = loss.detach();
  ++progress_.batch;
  ++progress_.step;
  if (!parts_.loop.by_epoch)
    progress_.val_due = parts_.test_loader && parts_.loop.validates_after(progress_.step);
  // A run that falls back must do so before it scales another loss.
  if (outcome_.is_known() || scaler_.diagnosis()) settle();
}

void Trainer::settle() {
  const auto result = outcome_.take();
  if (!result) return;
  parts_.hooks.for_each([&](Hook& hook) { hook.after_outcome(*this, *result); });
  skipped_in_a_row_ = result->stepped() ? 0 : skipped_in_a_row_ + 1;
  if (!result->stepped()) ++progress_.skipped_steps;
  if (check_overflows()) return;  // the loss at hand is the overflow's
  if (device_.is_cpu() || progress_.step % check_cuda_loss_every == 0 ||
      skipped_in_a_row_ >= max_skips_without_loss)
    check_numbers();
}

torch::Tensor Trainer::forward_and_backward(const Batch& batch) {
  // Not the first step, which has more to set up.
  const bool recorded = wants_precision_report_ && steps_of_this_process() == 1;
  std::optional<inspect::PrecisionRecorder> recorder;
  if (recorded) recorder.emplace(*parts_.model);
  auto loss = forward(batch);
  scaler_.scale(loss).backward();
  if (recorded) {
    precision_report_ = recorder->report();
    recorder.reset();
    write_file(work_dir_.precision_report_file(), to_json(*precision_report_).dump(2) + "\n");
  }
  return loss;
}

torch::Tensor Trainer::forward(const Batch& batch) {
  std::optional<inspect::DtypeCounter> counter;
  if (steps_of_this_process() % count_dtypes_every == 0) counter.emplace();
  torch::Tensor loss;
  {
    const Autocast autocast(AutocastOptions(device_.type())
                                .enabled(parts_.amp.enabled)
                                .dtype(parts_.amp.dtype)
                                .policy(parts_.amp.policy));
    loss = parts_.loss(parts_.model->forward(batch.data), batch.target);
  }
  if (counter) {
    dtypes_ += counter->report();
    ++counted_steps_;
  }
  return loss;
}

std::string Trainer::place() const {
  return c10::str("at step ", progress_.step, " (epoch ", progress_.epoch + 1, ", batch ",
                  progress_.batch, ")");
}

bool Trainer::check_overflows() {
  const auto diagnosis = scaler_.diagnosis();
  if (!diagnosis) return false;
  HALFSTEP_CHECK_USAGE(parts_.amp.loss_scale.options.at_min_scale() != AtMinScale::stop, "train",
                       "overflows must end once the loss scale is at its minimum, but ", place(),
                       " ", diagnosis->what(), "; ", diagnosis->advice(), "; the learning rate is ",
                       learning_rate());
  fall_back();
  std::cerr << "warning: the loss scale is off from now on and the layers run in "
            << parts_.amp.describe_dtype() << ", because " << place() << " " << diagnosis->what()
            << "\n";
  if (!parts_.amp.enabled) return true;
  if (const auto notice = missing_support_notice(device_, parts_.amp.dtype); !notice.empty())
    std::cerr << "note: " << notice << "\n";
  return true;
}

void Trainer::fall_back() {
  HALFSTEP_CHECK_USAGE(parts_.master_weights == optim::MasterWeights::none, "Trainer::fall_back",
                       "a run that falls back must have float32 weights, but master_weights gives "
                       "it 16-bit ones; leave it out");
  settle();
  parts_.amp.fall_back();
  parts_.choose_shadow_weights();
  scaler_ = GradScaler(parts_.amp.loss_scale.options);
  fell_back_ = true;
}

void Trainer::check_numbers() const {
  if (!loss_.defined()) return;
  // A skipped step did no harm yet, and other policies than stop go on whatever the loss is.
  const bool stops = parts_.amp.loss_scale.options.at_min_scale() == AtMinScale::stop;
  if (skipped_in_a_row_ > 0 && (!stops || skipped_in_a_row_ < max_skips_without_loss)) return;
  const auto loss = loss_.item<double>();
  const auto skips = skipped_in_a_row_ > 0
                         ? c10::str(", after ", skipped_in_a_row_, " skipped steps in a row")
                         : "";
  HALFSTEP_CHECK_USAGE(
      std::isfinite(loss), "train", "the loss must be finite, but got ", number_text(loss), " ",
      place(), " in ", dtype_name(parts_.amp.enabled ? parts_.amp.dtype : c10::kFloat), skips,
      "; lower the learning rate (", learning_rate(), ") or look for inf and NaN in the data");
}

void Trainer::check_weights() const {
  size_t index = 0;
  for (const auto& group : parts_.optimizer->param_groups())
    for (const auto& weight : group.params()) {
      const auto& name = parts_.parameter_names[index++];
      HALFSTEP_CHECK_USAGE(at::isfinite(weight).all().item<bool>(), "train",
                           "weights must be finite to be saved, but '", name,
                           "' has inf or NaN after step ", progress_.step,
                           "; earlier checkpoints are kept: lower the learning rate (",
                           learning_rate(), ") or look for inf and NaN in the data");
    }
}

void Trainer::check_any_step_taken() const {
  HALFSTEP_CHECK_USAGE(progress_.step == 0 || progress_.skipped_steps < progress_.step, "train",
                       "a run must take steps, but all ", progress_.step,
                       " were skipped because a gradient overflowed; lower the loss scale (",
                       scaler_.get_scale(), ") or look for inf and NaN in the data");
}

std::filesystem::path Trainer::save_checkpoint() {
  settle();
  auto file = work_dir_.checkpoint_file(progress_.step);
  if (saved_ != progress_) write_checkpoint(file);
  saved_ = progress_;
  last_saved_ = file;
  return file;
}

void Trainer::request_checkpoint(const std::string& name) {
  if (std::find(requested_.begin(), requested_.end(), name) == requested_.end())
    requested_.push_back(name);
}

void Trainer::save_requested() {
  for (const auto& name : std::exchange(requested_, {})) {
    settle();
    if (name.empty())
      save_checkpoint();
    else
      write_checkpoint(work_dir_.checkpoint_folder() / name);
  }
}

void Trainer::write_checkpoint(const std::filesystem::path& file) {
  check_numbers();
  check_weights();
  auto checkpoint = collect_state(*this);
  parts_.hooks.for_each([&](Hook& hook) { hook.before_save_checkpoint(*this, checkpoint); });
  checkpoint.save(file);
  parts_.hooks.for_each([&](Hook& hook) { hook.after_save_checkpoint(*this, file); });
}

}  // namespace halfstep::train
