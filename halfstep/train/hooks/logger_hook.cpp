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

// Without the sign that a NaN may have.
double loss_of(const Trainer& trainer) {
  const auto loss = trainer.loss().item<double>();
  return std::isnan(loss) ? std::abs(loss) : loss;
}

std::string scale_text(const Trainer& trainer) {
  return trainer.scaler().is_enabled() ? fmt::format("{:g}", trainer.scaler().get_scale()) : "off";
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
  timed_steps_ = -1;
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

double LoggerHook::seconds_per_step() const {
  const std::chrono::duration<double> passed = Clock::now() - start_;
  return passed.count() / static_cast<double>(timed_steps_);
}

double LoggerHook::samples_per_second(const Trainer& trainer) const {
  return static_cast<double>(trainer.parts().train_loader->options().batch_size) /
         seconds_per_step();
}

LoggerHook::Speed LoggerHook::speed(const Trainer& trainer) const {
  if (timed_steps_ < 1) return {};
  const auto& parts = trainer.parts();
  const int64_t steps_left =
      parts.max_epochs * parts.train_loader->num_batches() - trainer.progress().step;
  return {fmt::format("{:.0f} samples/s", samples_per_second(trainer)),
          "ETA " + clock_text(seconds_per_step() * static_cast<double>(steps_left))};
}

std::string LoggerHook::numbers(const Trainer& trainer) const {
  auto text =
      fmt::format("Loss: {:.6f}  lr {:g}  loss scale {}  skipped {}", loss_of(trainer),
                  trainer.learning_rate(), scale_text(trainer), trainer.progress().skipped_steps);
  const auto [samples, eta] = speed(trainer);
  for (const auto& field : {samples, eta})
    if (!field.empty()) text += "  " + field;
  return text;
}

std::vector<std::string> LoggerHook::bar_fields(const Trainer& trainer) const {
  const auto [samples, eta] = speed(trainer);
  std::vector<std::string> fields{fmt::format("loss {:.4g}", loss_of(trainer)),
                                  eta,
                                  "scale " + scale_text(trainer),
                                  fmt::format("skipped {}", trainer.progress().skipped_steps),
                                  samples,
                                  fmt::format("lr {:g}", trainer.learning_rate())};
  std::erase(fields, "");
  return fields;
}

void LoggerHook::after_step(Trainer& trainer) {
  if (++timed_steps_ == 0) start_ = Clock::now();
  const auto& progress = trainer.progress();
  const auto& loader = *trainer.parts().train_loader;
  const int64_t index = progress.batch - 1;
  const bool draws = bar_ && (bar_->due() || progress.batch == loader.num_batches());
  const bool writes = index % interval_ == 0;
  if (draws || writes) trainer.settle();
  if (draws) {
    const auto label = fmt::format("Epoch {}/{}", progress.epoch + 1, trainer.parts().max_epochs);
    bar_->draw(label,
               static_cast<double>(progress.batch) / static_cast<double>(loader.num_batches()),
               bar_fields(trainer), progress.batch == loader.num_batches());
  }
  if (!writes) return;
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
  if (timed_steps_ > 0) line["samples_per_second"] = samples_per_second(trainer);
  if (const auto& evaluation = trainer.evaluation();
      evaluation && std::string_view(event) != "train") {
    line["test_loss"] = evaluation->loss;
    if (evaluation->accuracy) line["test_accuracy"] = *evaluation->accuracy;
  }
  log_->write(line);
}

}  // namespace halfstep::train
