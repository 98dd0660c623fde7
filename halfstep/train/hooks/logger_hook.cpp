#include "halfstep/train/hooks/logger_hook.h"

#include "halfstep/core/device.h"
#include "halfstep/core/machine.h"
#include "halfstep/core/version.h"
#include "halfstep/train/loop/trainer.h"

#include <cmath>
#include <cstdio>
#include <exception>

#include <fmt/format.h>

namespace halfstep::train {

namespace {

std::string loss_text(const Trainer& trainer) {
  if (!trainer.loss().defined()) return "";
  const auto loss = trainer.loss().item<double>();
  // Without the sign that a NaN may have.
  return fmt::format("loss {:.4g}", std::isnan(loss) ? std::abs(loss) : loss);
}

std::string scale_text(const Trainer& trainer) {
  std::string text;
  for (const auto& parts : trainer.parts().wrappers) {
    const auto* scaler = parts.scaler();
    const bool scales = scaler != nullptr && scaler->is_enabled();
    text += (text.empty() ? "" : "/") + (scales ? fmt::format("{:g}", scaler->get_scale()) : "off");
  }
  return text;
}

/// Of several optimizers the first one's.
std::string rate_text(const Trainer& trainer) {
  const auto& parts = trainer.parts().wrappers.front();
  const auto name =
      "train/" + parts.named(parts.wrapper->base_settings() != nullptr ? "base_lr" : "lr");
  return trainer.message_hub().has(name)
             ? fmt::format("lr {:g}", trainer.message_hub().current(name))
             : "";
}

/// Nothing before a step was timed.
std::optional<double> samples_per_second(const Trainer& trainer) {
  const auto& hub = trainer.message_hub();
  if (!hub.has("train/time")) return std::nullopt;
  const double seconds = hub.mean("train/time", MessageHub::kept);
  return static_cast<double>(trainer.parts().train_loader->total_batch_size()) / seconds;
}

nlohmann::ordered_json machine_json(c10::Device device) {
  const auto machine = this_machine();
  return {{"device", describe_device(device)},
          {"cpu", machine.cpu},
          {"instructions", machine.instructions},
          {"cores", machine.cores},
          {"memory_gib", static_cast<double>(machine.memory_bytes >> 20) / 1024}};
}

/// The most memory in use so far, in MiB: of a GPU what tensors took, else what the process did.
int64_t peak_memory(c10::Device device) {
  return device.is_cpu() ? static_cast<int64_t>(peak_resident_bytes() >> 20)
                         : peak_mebibytes(device);
}

bool ends_epoch(const Trainer& trainer) {
  return trainer.progress().batch == trainer.parts().train_loader->num_batches();
}

}  // namespace

LoggerHook::LoggerHook(Config& config)
    : interval_(config.get<int64_t>("interval", 200)),
      ignore_last_(config.get<bool>("ignore_last", true)) {
  if (interval_ < 1) config.fail("interval", "must be at least 1 batch");
}

void LoggerHook::before_run(Trainer& trainer) {
  std::error_code ignored;  // JsonLog says it
  std::filesystem::create_directory(trainer.work_dir().scalars_file().parent_path(), ignored);
  scalars_.emplace(trainer.work_dir().scalars_file());
  log_.emplace(trainer.work_dir().log_file());
  if (trainer.is_first() && ProgressBar::fits()) bar_.emplace();
  nlohmann::ordered_json line{{"event", trainer.resumed_from().empty() ? "start" : "resume"},
                              {"step", trainer.progress().step},
                              {"halfstep", version()},
                              {"torch", torch_version()},
                              {"device", trainer.device().str()}};
  for (const auto& wrapper : trainer.parts().wrappers) {
    line[wrapper.named("dtype")] = wrapper.amp.describe_dtype();
    line[wrapper.named("loss_scale")] = wrapper.amp.describe_scale();
  }
  line["seed"] = trainer.parts().seed;
  if (const auto& ranks = trainer.ranks(); ranks.count() > 1) {
    line["rank"] = ranks.rank();
    line["ranks"] = ranks.count();
    line["backend"] = dist::backend_name(ranks.group()->backend());
    auto& seeds = line["rank_seeds"] = nlohmann::ordered_json::array();
    for (int rank = 0; rank < ranks.count(); ++rank)
      seeds.push_back(rank_seed(trainer.parts(), rank));
  }
  line["machine"] = machine_json(trainer.device());
  log_->write(line);
}

void LoggerHook::after_outcome(Trainer& trainer, const StepResult& result) {
  if (result.stepped()) return;
  const auto& parts = trainer.active_wrapper();
  nlohmann::ordered_json line{{"event", "skip"}, {"step", trainer.outcome_step()}};
  if (!parts.name.empty()) line["optimizer"] = parts.name;
  // On a GPU reading it would wait.
  if (trainer.device().is_cpu()) line[parts.named("loss_scale")] = trainer.scaler().get_scale();
  log_->write(line);
}

void LoggerHook::print(const std::string& line) {
  if (bar_) bar_->end();
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

bool LoggerHook::writes(const Trainer& trainer) const {
  const auto& parts = trainer.parts();
  const auto& progress = trainer.progress();
  const bool by_epoch = parts.loop.by_epoch;
  const auto done = by_epoch ? progress.batch : progress.step;
  const auto all = by_epoch ? parts.train_loader->num_batches() : trainer.total_steps();
  if (done % interval_ == 0) return true;
  return done == all && (!ignore_last_ || all <= interval_);
}

std::vector<std::string> LoggerHook::bar_fields(const Trainer& trainer) const {
  const auto& hub = trainer.message_hub();
  const auto speed = samples_per_second(trainer);
  std::vector<std::string> fields{loss_text(trainer),
                                  hub.has("eta") ? "ETA " + duration_text(hub.current("eta")) : "",
                                  "scale " + scale_text(trainer),
                                  fmt::format("skipped {}", trainer.progress().skipped_steps),
                                  speed ? fmt::format("{:.0f} samples/s", *speed) : "",
                                  rate_text(trainer)};
  std::erase(fields, "");
  return fields;
}

void LoggerHook::draw(const Trainer& trainer) {
  const auto& progress = trainer.progress();
  const auto& loop = trainer.parts().loop;
  const auto batches = trainer.parts().train_loader->num_batches();
  const auto label = loop.by_epoch ? fmt::format("Epoch {}/{}", progress.epoch + 1, loop.length)
                                   : fmt::format("Iter {}/{}", progress.step, loop.length);
  const double share = loop.by_epoch
                           ? static_cast<double>(progress.batch) / static_cast<double>(batches)
                           : static_cast<double>(progress.step) / static_cast<double>(loop.length);
  bar_->draw(label, share, bar_fields(trainer), share == 1);
}

void LoggerHook::after_train_iter(Trainer& trainer, const Batch&) {
  const bool last = trainer.parts().loop.by_epoch
                        ? ends_epoch(trainer)
                        : trainer.progress().step == trainer.total_steps();
  const bool draws = bar_ && (bar_->due() || last);
  const bool reports = writes(trainer);
  if (draws || reports) trainer.settle();
  if (draws) draw(trainer);
  if (!reports) return;
  const auto line = trainer.parts().log_processor.after_train_iter(trainer);
  if (!bar_) print(line.text);
  scalars_->write(line.scalars);
  write_log(trainer, "train", /*validated=*/false);
}

void LoggerHook::after_train_epoch(Trainer& trainer) {
  if (bar_) bar_->end();
  if (trainer.parts().loop.by_epoch && !trainer.progress().val_due)
    write_log(trainer, "epoch", /*validated=*/false);
}

void LoggerHook::after_val_iter(Trainer& trainer, int64_t number, const Batch&) {
  if (bar_ || (number + 1) % interval_ != 0) return;
  print(trainer.parts().log_processor.after_val_iter(trainer, number).text);
}

void LoggerHook::after_val_epoch(Trainer& trainer, const Metrics& metrics) {
  if (metrics.empty()) return;
  const auto line = trainer.parts().log_processor.after_val_epoch(trainer);
  print(line.text);
  scalars_->write(line.scalars);
  write_log(trainer, trainer.parts().loop.by_epoch ? "epoch" : "val", /*validated=*/true);
}

void LoggerHook::after_run(Trainer& trainer) {
  if (bar_) bar_->end();
  write_log(trainer, "end", /*validated=*/true);
}

void LoggerHook::on_exception(Trainer& trainer, const std::exception& error) {
  if (bar_) bar_->end();
  if (!log_) return;
  const auto& progress = trainer.progress();
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  log_->write({{"event", "error"},
               {"epoch", progress.epoch},
               {"batch", progress.batch},
               {"step", progress.step},
               {"error", of_torch != nullptr ? of_torch->what_without_backtrace() : error.what()}});
}

void LoggerHook::write_log(const Trainer& trainer, const char* event, bool validated) {
  const auto& progress = trainer.progress();
  const bool trains = std::string_view(event) == "train";
  nlohmann::ordered_json line{{"event", event},
                              {"epoch", progress.epoch},
                              {"batch", progress.batch},
                              {"step", progress.step}};
  const auto& wrappers = trainer.parts().wrappers;
  const auto put_rate = [&](const std::string& name, double now) {
    // Of an iteration: that of its update, the last one where it only accumulated.
    const auto told = "train/" + name;
    line[name] =
        trains && trainer.message_hub().has(told) ? trainer.message_hub().current(told) : now;
  };
  for (const auto& parts : wrappers) {
    if (parts.wrapper->base_settings() != nullptr)
      put_rate(parts.named("base_lr"), parts.learning_rate());
    put_rate(parts.named("lr"), parts.wrapper->param_groups().front().options().get_lr());
  }
  line["skipped_steps"] = progress.skipped_steps;
  if (trainer.loss().defined()) line["loss"] = trainer.loss().item<double>();
  for (size_t i = 0; i < wrappers.size(); ++i) {
    const auto& parts = wrappers[i];
    if (parts.scaler() && parts.scaler()->is_enabled())
      line[parts.named("loss_scale")] = parts.scaler()->get_scale();
    if (parts.wrapper->grad_norm().defined())
      line[parts.named("grad_norm")] = parts.wrapper->grad_norm().item<double>();
    if (wrappers.size() > 1) line[parts.named("skipped_steps")] = trainer.counts(i).skipped_steps;
  }
  if (const auto speed = samples_per_second(trainer)) line["samples_per_second"] = *speed;
  if (const auto& hub = trainer.message_hub(); trains && hub.has("train/time"))
    line["time"] = hub.mean("train/time", MessageHub::kept);
  line["memory"] = peak_memory(trainer.device());
  // Of an epoch without one it would be an older one's.
  if (const auto& evaluation = trainer.evaluation(); evaluation && validated)
    for (const auto& [name, value] : evaluation->metrics) line["test_" + name] = value;
  if (std::string_view(event) == "end") {
    line["finished"] = trainer.is_finished();
    if (trainer.counted_steps() > 0) line["dtypes"] = trainer.dtypes().summary();
  }
  log_->write(line);
}

}  // namespace halfstep::train
