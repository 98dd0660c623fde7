#include "halfstep/train/loop/trainer.h"

#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/core/error.h"
#include "halfstep/inspect/precision_recorder.h"
#include "halfstep/train/files/atomic_file.h"
#include "halfstep/train/hooks/overflow_trace_hook.h"
#include "halfstep/train/loop/precision_json.h"
#include "halfstep/train/loop/rank_files.h"
#include "halfstep/train/loop/stop_signal.h"

#include <algorithm>
#include <utility>

#include <torch/utils.h>

namespace halfstep::train {

namespace {
// Counting every step would cost a tenth of a small one.
constexpr int64_t count_dtypes_every = 50;
}  // namespace

Trainer::Trainer(Config config, const RunOptions& options)
    : device_(options.device),
      ranks_(options.group),
      load_from_(read_load_from(config, options)),
      resume_point_(find_resume_point(options, load_from_)),
      parts_(build_training(config, options,
                            resume_point_ ? std::optional(resume_point_->seed) : std::nullopt)),
      no_scaler_(GradScalerOptions(device_.type()).enabled(false)),
      work_dir_(rank_folder(options.work_dir, ranks_.rank(), options.resume)),
      wants_precision_report_(options.precision_report) {
  // None goes on before all have read what they resume from: the first one moves files then.
  ranks_.check_same("resume", "the checkpoint to go on from",
                    resume_point_ ? resume_point_->source.string() : "none",
                    "let all processes see the same files");
  ranks_.check_same("config", "the config (with --amp, --seed and --device)",
                    shared_settings(config, options),
                    "start all processes with the same file and options");
  if (!is_first()) torch::manual_seed(rank_seed(parts_, ranks_.rank()));
  for (size_t i = 0; i < parts_.wrappers.size(); ++i) {
    runs_.push_back({LateOutcome(options.late_outcomes), {}});
    observe(i);
    if (auto* scaler = parts_.wrappers[i].scaler())
      scaler->name_parameters(parts_.model->named_parameters());
  }
  parts_.optim_wrapper().initialize_count_status(*parts_.model, 0, total_steps());
  if (resume_point_) {
    resume();
  } else {
    if (!load_from_.empty()) load_initial_weights(*this, load_from_);
    if (!options.resume && is_first()) put_aside_ = work_dir_.put_earlier_run_aside();
  }
  ranks_.connect(parts_);
  if (options.trace_overflow) register_hook(std::make_unique<OverflowTraceHook>());
  if (is_first()) write_file(work_dir_.config_file(), parts_.resolved_config);
}

void Trainer::resume() {
  restore_state(*this, *resume_point_);
  resumed_from_ = resume_point_->source;
  resume_point_.reset();
  first_step_ = progress_.step;
  bool is_saved = false;
  if (is_first()) {
    // Files are compared as files: paths may go different ways.
    std::error_code ignored;
    const auto folder = std::filesystem::absolute(resumed_from_).parent_path();
    const bool own = std::filesystem::equivalent(folder, work_dir_.checkpoint_folder(), ignored);
    put_aside_ = own ? work_dir_.put_later_checkpoints_aside(progress_.step)
                     : work_dir_.put_earlier_run_aside();
    is_saved = own && std::filesystem::equivalent(
                          resumed_from_, work_dir_.checkpoint_file(progress_.step), ignored);
  }
  // All take part in a checkpoint, so all must know whether this one is there already.
  if (auto* group = ranks_.group()) is_saved = group->broadcast(is_saved ? "saved" : "") == "saved";
  if (is_saved) saved_ = progress_;
}

double Trainer::learning_rate() const {
  return parts_.wrappers.front().learning_rate();
}

Trainer::Outcome Trainer::train() {
  try {
    return run();
  } catch (const std::exception& error) {
    parts_.hooks.for_each([&](Hook& hook) {
      try {
        hook.on_exception(*this, error);
      } catch (const std::exception&) {
        // The run's own is the one to tell.
      }
    });
    throw;
  }
}

Trainer::Outcome Trainer::run() {
  const StopSignal signal;
  const auto rehearses = [](const WrapperParts& parts) { return parts.amp.rehearses(); };
  const HalfRehearsal rehearsal(
      std::any_of(parts_.wrappers.begin(), parts_.wrappers.end(), rehearses));
  parts_.model->train();
  const auto stop = [&] {
    const int signal_here = signal.received();
    const int agreed = ranks_.agree(signal_here != 0 ? signal_here : stop_requested_ ? 1 : 0);
    stop_signal_ = agreed > 1 ? agreed : 0;
    return agreed != 0;
  };
  parts_.hooks.for_each([&](Hook& hook) { hook.before_run(*this); });
  std::optional<inspect::OverflowTracer> tracer;
  if (traces_overflows_) {
    overflow_tracer_ = &tracer.emplace(*parts_.model);
    tracer->pause();
  }
  const auto forget_tracer = std::unique_ptr<Trainer, void (*)(Trainer*)>(
      this, [](Trainer* self) { self->overflow_tracer_ = nullptr; });
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
  ranks_.sync_buffers();
  EvaluateOptions options{.stop = stop};
  if (parts_.test_loader->options().ranks > 1) options.sum_over_ranks = ranks_.sum();
  options.before_batch = [&](int64_t number, const Batch& batch) {
    each([&](Hook& hook) { hook.before_val_iter(*this, number, batch); });
  };
  options.after_batch = [&](int64_t number, const Batch& batch) {
    each([&](Hook& hook) { hook.after_val_iter(*this, number, batch); });
  };
  evaluation_ = evaluate(*parts_.model, *parts_.test_loader, device_, parts_.amp(),
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
    } catch (const c10::DistError&) {
      throw;  // another rank's fault: ProcessGroup::run says whose
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
  counts_dtypes_ = steps_of_this_process() % count_dtypes_every == 0;
  // Not the first step, which has more to set up.
  if (wants_precision_report_ && steps_of_this_process() == 1)
    precision_recorder_.emplace(*parts_.model);
  ranks_.begin_step(parts_.train_loader->weight(progress_.batch));
  observe_ops(true);
  try {
    log_vars_ = parts_.model->train_step(batch, parts_.optim_wrapper());
  } catch (...) {
    dtype_counter_.reset();
    precision_recorder_.reset();
    throw;
  }
  observe_ops(false);
  if (precision_recorder_) {
    precision_report_ = precision_recorder_->report();
    precision_recorder_.reset();
    if (is_first())
      write_file(work_dir_.precision_report_file(), to_json(*precision_report_).dump(2) + "\n");
  }
  if (counts_dtypes_) ++counted_steps_;
  loss_ = log_vars_.contains("loss") ? log_vars_["loss"] : torch::Tensor();
  ++progress_.batch;
  ++progress_.step;
  if (!parts_.loop.by_epoch)
    progress_.val_due = parts_.test_loader && parts_.loop.validates_after(progress_.step);
  // A run that falls back must do so before it scales another loss.
  const auto is_due = [&](const WrapperRun& run) { return run.outcome.is_known(); };
  const auto diagnosed = [](const WrapperParts& parts) {
    return parts.scaler() != nullptr && parts.scaler()->diagnosis();
  };
  if (std::any_of(runs_.begin(), runs_.end(), is_due) ||
      std::any_of(parts_.wrappers.begin(), parts_.wrappers.end(), diagnosed))
    settle();
}

/// Only the model's own operations count, not the update's.
void Trainer::observe_ops(bool observe) {
  if (dtype_counter_) dtypes_ += dtype_counter_->report();
  dtype_counter_.reset();
  if (observe && counts_dtypes_) dtype_counter_.emplace();
  if (precision_recorder_) observe ? precision_recorder_->resume() : precision_recorder_->pause();
  if (overflow_tracer_ != nullptr) observe ? overflow_tracer_->resume() : overflow_tracer_->pause();
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
  if (!is_first()) return;
  parts_.hooks.for_each([&](Hook& hook) { hook.before_save_checkpoint(*this, checkpoint); });
  checkpoint.save(file);
  parts_.hooks.for_each([&](Hook& hook) { hook.after_save_checkpoint(*this, file); });
}

}  // namespace halfstep::train
