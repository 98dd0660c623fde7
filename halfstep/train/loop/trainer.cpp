#include "halfstep/train/loop/trainer.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/inspect/precision_recorder.h"
#include "halfstep/core/low_precision_support.h"
#include "halfstep/train/data/to_device.h"
#include "halfstep/train/files/atomic_file.h"
#include "halfstep/train/loop/precision_json.h"
#include "halfstep/train/loop/stop_signal.h"

#include <cmath>
#include <iostream>

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
      resume_point_(find_resume_point(options)),
      parts_(build_training(config, options,
                            resume_point_ ? std::optional(resume_point_->seed) : std::nullopt)),
      scaler_(without_stop(parts_.amp.loss_scale.options)),
      work_dir_(options.work_dir),
      outcome_(options.late_outcomes),
      wants_precision_report_(options.precision_report) {
  scaler_.name_parameters(parts_.model->named_parameters());
  if (resume_point_) {
    resume();
  } else if (!options.resume) {
    put_aside_ = work_dir_.put_earlier_run_aside();
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
  parts_.for_each_hook([&](Hook& hook) { hook.before_run(*this); });
  bool stopped = stop();
  while (!stopped && progress_.epoch < parts_.max_epochs) {
    parts_.train_loader->set_epoch(progress_.epoch);
    while (!stopped && progress_.batch < parts_.train_loader->num_batches()) {
      run_step();
      parts_.for_each_hook([&](Hook& hook) { hook.after_step(*this); });
      stopped = stop();
    }
    // A run stopped after an epoch's last batch evaluates when it is resumed.
    if (!stopped) stopped = !finish_epoch(stop) || stop();
  }
  // What came too late to shorten the run does not make it a stopped one.
  if (progress_.epoch >= parts_.max_epochs) {
    stopped = false;
    stop_signal_ = 0;
    check_any_step_taken();
  }
  if (stopped) save_checkpoint();
  parts_.for_each_hook([&](Hook& hook) { hook.after_run(*this); });
  return stopped ? Outcome::stopped : Outcome::finished;
}

/// Evaluates and counts the epoch; returns false, and changes nothing, where `stop` came first.
bool Trainer::finish_epoch(const std::function<bool()>& stop) {
  settle();
  if (parts_.test_loader) {
    evaluation_ =
        evaluate(*parts_.model, parts_.loss, *parts_.test_loader, device_, parts_.amp, stop);
    if (!evaluation_) return false;
  }
  if (parts_.lr_scheduler && parts_.schedule_by_epoch) parts_.lr_scheduler->step();
  ++progress_.epoch;
  progress_.batch = 0;
  parts_.for_each_hook([&](Hook& hook) { hook.after_epoch(*this); });
  return true;
}

/// A step whose failure, where LibTorch's own, says which step it was.
void Trainer::run_step() try {
  train_step(parts_.train_loader->batch(progress_.batch));
} catch (const c10::OutOfMemoryError& error) {
  halfstep::detail::raise<EnvironmentError>(
      "train", "step ", progress_.step + 1,
      " must fit into memory, but LibTorch says: ", error.what_without_backtrace(),
      "; make batch_size or the model smaller");
} catch (const c10::Error& error) {
  halfstep::detail::raise<UsageError>(
      "train", "step ", progress_.step + 1,
      " must run, but LibTorch says: ", error.what_without_backtrace(),
      "; check that the data's shape fits the model, and that every label is below the number of "
      "the model's outputs");
}

void Trainer::train_step(const Batch& batch) {
  parts_.optimizer->zero_grad();
  const auto loss = forward_and_backward(to_device(batch, device_));
  settle();  // the step before, whose successor a GPU has been given by now
  outcome_.note(scaler_.step(*parts_.optimizer));
  scaler_.update();
  loss_ = loss.detach();
  ++progress_.batch;
  ++progress_.step;
  // A run that falls back must do so before it scales another loss.
  if (outcome_.is_known() || scaler_.diagnosis()) settle();
}

void Trainer::settle() {
  const auto result = outcome_.take();
  if (!result) return;
  if (parts_.lr_scheduler && !parts_.schedule_by_epoch) parts_.lr_scheduler->step(*result);
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
  if (saved_ == progress_) return file;
  check_numbers();
  check_weights();
  collect_state(*this).save(file);
  saved_ = progress_;
  return file;
}

}  // namespace halfstep::train
