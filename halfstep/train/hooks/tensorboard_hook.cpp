#include "halfstep/train/hooks/tensorboard_hook.h"

#include "halfstep/train/loop/trainer.h"

#include <string>
#include <utility>
#include <vector>

namespace halfstep::train {

namespace {

std::vector<std::pair<std::string, double>> with_prefix(const std::string& prefix,
                                                        const nlohmann::ordered_json& numbers) {
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [name, value] : numbers.items())
    if (name != "step" && name != "iter") scalars.emplace_back(prefix + name, value.get<double>());
  return scalars;
}

// Markdown shows it as it is.
std::string as_code(const std::string& text) {
  std::string result = "    ";
  for (const char c : text) {
    result += c;
    if (c == '\n') result += "    ";
  }
  return result;
}

}  // namespace

TensorboardHook::TensorboardHook(Config& config) : interval_(config.get<int64_t>("interval", 50)) {
  if (interval_ < 1) config.fail("interval", "must be at least 1 step");
}

void TensorboardHook::before_run(Trainer& trainer) {
  if (!trainer.is_first()) return;
  file_.emplace(trainer.work_dir().scalars_file().parent_path());
  const auto step = trainer.progress().step;
  file_->add_start(step == 0 ? 0 : step + 1);
  file_->add_text(step, "config", as_code(trainer.parts().resolved_config));
}

void TensorboardHook::after_train_iter(Trainer& trainer, const Batch&) {
  const auto step = trainer.progress().step;
  if (!file_ || step % interval_ != 0) return;
  trainer.settle();
  const auto line = trainer.parts().log_processor.after_train_iter(trainer);
  file_->add_scalars(step, with_prefix("train/", line.scalars));
}

void TensorboardHook::after_val_epoch(Trainer& trainer, const Metrics& metrics) {
  if (!file_ || metrics.empty()) return;
  const auto line = trainer.parts().log_processor.after_val_epoch(trainer);
  file_->add_scalars(trainer.progress().step, with_prefix("val/", line.scalars));
}

}  // namespace halfstep::train
