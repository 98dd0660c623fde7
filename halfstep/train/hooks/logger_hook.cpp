#include "halfstep/train/hooks/logger_hook.h"

#include "halfstep/core/version.h"
#include "halfstep/train/loop/trainer.h"

#include <cmath>
#include <cstdio>

#include <fmt/format.h>

namespace halfstep::train {

namespace {
std::string clock_text(double seconds) {
  const auto whole = std::llround(seconds);
  if (whole >= 3600)
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

int64_t examples(const Trainer& trainer) {
  return trainer.parts().train_loader->dataset().size();
}
}  // namespace

LoggerHook::LoggerHook(Config& config) : interval_(config.get<int64_t>("interval", 200)) {
  if (interval_ < 1) config.fail("interval", "must be at least 1 batch");
}

void LoggerHook::before_run(Trainer& trainer) {
  log_.emplace(trainer.work_dir().log_file());
  if (ProgressBar::fits()) bar_.emplace();
  start_ = Clock::now();
  const auto& parts = trainer.parts();
  log_->write({{"event", trainer.resumed_from().empty() ? "start" : "resume"},
               {"step", trainer.progress().step},
               {"halfstep", version()},
               {"torch", torch_version()},
               {"device", trainer.device().str()},
               {"dtype", parts.amp.describe_dtype()},
               {"loss_scale", parts.amp.describe_scale()},
               {"seed", parts.seed}});
}

double LoggerHook::samples_per_second(const Trainer& trainer) const {
  const std::chrono::duration<double> passed = Clock::now() - start_;
  const auto& loader = *trainer.parts().train_loader;
  return static_cast<double>(trainer.steps_of_this_process() * loader.options().batch_size) /
         passed.count();
}

std::string LoggerHook::numbers(const Trainer& trainer) const {
  const auto& progress = trainer.progress();
  const auto& parts = trainer.parts();
  const int64_t steps_left = parts.max_epochs * parts.train_loader->num_batches() - progress.step;
  const std::chrono::duration<double> passed = Clock::now() - start_;
  const double eta = passed.count() * static_cast<double>(steps_left) /
                     static_cast<double>(trainer.steps_of_this_process());
  const auto scale =
      trainer.scaler().is_enabled() ? fmt::format("{:g}", trainer.scaler().get_scale()) : "off";
  return fmt::format("Loss: {:.6f}  lr {:g}  loss scale {}  skipped {}  {:.0f} samples/s  ETA {}",
                     trainer.loss().item<double>(), trainer.learning_rate(), scale,
                     progress.skipped_steps, samples_per_second(trainer), clock_text(eta));
}

void LoggerHook::after_step(Trainer& trainer) {
  const auto& progress = trainer.progress();
  const auto& loader = *trainer.parts().train_loader;
  const int64_t index = progress.batch - 1;
  if (bar_ && (bar_->due() || progress.batch == loader.num_batches())) {
    const auto label = fmt::format("Epoch {}/{}", progress.epoch + 1, trainer.parts().max_epochs);
    bar_->draw(label,
               static_cast<double>(progress.batch) / static_cast<double>(loader.num_batches()),
               numbers(trainer), progress.batch == loader.num_batches());
  }
  if (index % interval_ != 0) return;
  if (!bar_) {
    fmt::print("Train Epoch: {} [{}/{}] {}\n", progress.epoch + 1,
               index * loader.options().batch_size, examples(trainer), numbers(trainer));
    std::fflush(stdout);
  }
  write_log(trainer, "train");
}

void LoggerHook::after_epoch(Trainer& trainer) {
  if (bar_) bar_->end();
  const auto& evaluation = trainer.evaluation();
  if (evaluation && evaluation->accuracy)
    fmt::print("test accuracy {:.4f}\n", *evaluation->accuracy);
  if (evaluation && !evaluation->accuracy) fmt::print("test loss {:.6f}\n", evaluation->loss);
  std::fflush(stdout);
  write_log(trainer, "epoch");
}

void LoggerHook::after_run(Trainer& trainer) {
  if (bar_) bar_->end();
  write_log(trainer, "end");
}

void LoggerHook::write_log(const Trainer& trainer, const char* event) {
  const auto& progress = trainer.progress();
  nlohmann::ordered_json line{{"event", event},
                              {"epoch", progress.epoch},
                              {"batch", progress.batch},
                              {"step", progress.step},
                              {"lr", trainer.learning_rate()},
                              {"skipped_steps", progress.skipped_steps}};
  if (trainer.loss().defined()) line["loss"] = trainer.loss().item<double>();
  if (trainer.scaler().is_enabled()) line["loss_scale"] = trainer.scaler().get_scale();
  if (trainer.steps_of_this_process() > 0) line["samples_per_second"] = samples_per_second(trainer);
  if (const auto& evaluation = trainer.evaluation();
      evaluation && std::string_view(event) != "train") {
    line["test_loss"] = evaluation->loss;
    if (evaluation->accuracy) line["test_accuracy"] = *evaluation->accuracy;
  }
  log_->write(line);
}

}  // namespace halfstep::train
