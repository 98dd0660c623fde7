#include "halfstep/train/loop/trainer.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/train/files/atomic_file.h"
#include "halfstep/train/loop/stop_signal.h"

#include <cmath>

namespace halfstep::train {

namespace {
// Counting every step would cost a tenth of a small one.
constexpr int64_t count_dtypes_every = 50;
// Reading the loss of a CUDA step waits for the device.
constexpr int64_t check_cuda_loss_every = 200;
}  // namespace

Trainer::Trainer(Config config, RunOptions options)
    : device_(options.device),
      resume_point_(find_resume_point(options)),
      parts_(build_training(config, options)),
      scaler_(parts_.amp.loss_scale.options),
      work_dir_(options.work_dir) {
  if (resume_point_) {
    restore_state(*this, *resume_point_);
    resumed_from_ = resume_point_->source;
    resume_point_.reset();
    first_step_ = progress_.step;
    saved_ = progress_;
  } else if (!options.resume) {
    put_aside_ = work_dir_.put_earlier_run_aside();
  }
  write_file(work_dir_.config_file(), parts_.resolved_config);
}

double Trainer::learning_rate() const {
  return parts_.optimizer->param_groups().front().options().get_lr();
}

Trainer::Outcome Trainer::train() {
  const StopSignal signal;
  parts_.model->train();
  for (auto& hook : parts_.hooks) hook->before_run(*this);
  bool stopped = false;
  while (!stopped && progress_.epoch < parts_.max_epochs) {
    parts_.train_loader->set_epoch(progress_.epoch);
    while (!stopped && progress_.batch < parts_.train_loader->num_batches()) {
      train_step(parts_.train_loader->batch(progress_.batch));
      for (auto& hook : parts_.hooks) hook->after_step(*this);
      stop_signal_ = signal.received();
      stopped = stop_requested_ || stop_signal_ != 0;
    }
    // A run stopped after an epoch's last batch evaluates when it is resumed.
    if (!stopped) finish_epoch();
    stopped = stopped || stop_requested_;
  }
  if (stopped) save_checkpoint();
  for (auto& hook : parts_.hooks) hook->after_run(*this);
  return stopped ? Outcome::stopped : Outcome::finished;
}

void Trainer::finish_epoch() {
  if (parts_.lr_scheduler && parts_.schedule_by_epoch) parts_.lr_scheduler->step();
  ++progress_.epoch;
  progress_.batch = 0;
  if (parts_.test_loader)
    evaluation_ = evaluate(*parts_.model, parts_.loss, *parts_.test_loader, device_, parts_.amp);
  for (auto& hook : parts_.hooks) hook->after_epoch(*this);
}

void Trainer::train_step(const Batch& batch) {
  parts_.optimizer->zero_grad();
  const auto loss = forward({batch.data.to(device_), batch.target.to(device_)});
  scaler_.scale(loss).backward();
  const auto result = scaler_.step(*parts_.optimizer);
  const bool stepped = result.stepped();
  if (parts_.lr_scheduler && !parts_.schedule_by_epoch) parts_.lr_scheduler->step(result);
  scaler_.update();
  loss_ = loss.detach();
  ++progress_.batch;
  ++progress_.step;
  if (!stepped) ++progress_.skipped_steps;
  if (device_.is_cpu() || progress_.step % check_cuda_loss_every == 0) check_numbers();
}

torch::Tensor Trainer::forward(const Batch& batch) {
  std::optional<inspect::DtypeCounter> counter;
  if (steps_of_this_process() % count_dtypes_every == 0) counter.emplace();
  torch::Tensor loss;
  {
    const Autocast autocast(
        AutocastOptions(device_.type()).enabled(parts_.amp.enabled).dtype(parts_.amp.dtype));
    loss = parts_.loss(parts_.model->forward(batch.data), batch.target);
  }
  if (counter) {
    dtypes_ += counter->report();
    ++counted_steps_;
  }
  return loss;
}

void Trainer::check_numbers() const {
  const auto place = c10::str(" at step ", progress_.step, " (epoch ", progress_.epoch + 1,
                              ", batch ", progress_.batch, ")");
  if (scaler_.is_enabled()) {
    HALFSTEP_CHECK_USAGE(scaler_.get_scale() > 0, "train",
                         "the loss scale must stay above 0, but it fell to 0", place,
                         ": every step overflows; look for an operation that makes inf or NaN, or "
                         "lower the learning rate (",
                         learning_rate(), ")");
    return;
  }
  const auto loss = loss_.item<double>();
  HALFSTEP_CHECK_USAGE(
      std::isfinite(loss), "train", "the loss must be finite, but got ", loss, place, " in ",
      dtype_name(parts_.amp.enabled ? parts_.amp.dtype : c10::kFloat),
      "; lower the learning rate (", learning_rate(), ") or look for inf and NaN in the data");
}

std::filesystem::path Trainer::save_checkpoint() {
  auto file = work_dir_.checkpoint_file(progress_.step);
  if (saved_ != progress_) collect_state(*this).save(file);
  saved_ = progress_;
  return file;
}

}  // namespace halfstep::train
