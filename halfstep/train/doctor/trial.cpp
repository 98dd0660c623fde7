#include "halfstep/train/doctor/trial.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/core/machine.h"
#include "halfstep/train/files/atomic_file.h"
#include "halfstep/train/launch/rank_process.h"
#include "halfstep/train/loop/amp_settings.h"
#include "halfstep/train/loop/older_keys.h"
#include "halfstep/train/loop/trainer.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <memory>
#include <utility>

#include <torch/cuda.h>

#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>

namespace halfstep::train {

namespace {

using Clock = std::chrono::steady_clock;

// Ends a run before it saves anything.
struct TrialIsOver {};

class TrialHook : public Hook {
 public:
  explicit TrialHook(int64_t steps) : steps_(steps) {}
  int64_t priority() const override { return priority::lowest; }

  void before_train_iter(Trainer& trainer, const Batch&) override {
    finish_device(trainer);
    start_ = Clock::now();
  }
  void after_train_iter(Trainer& trainer, const Batch&) override {
    finish_device(trainer);
    seconds_.push_back(std::chrono::duration<double>(Clock::now() - start_).count());
    if (static_cast<int64_t>(seconds_.size()) < trial_warm_up + steps_) return;
    trainer.settle();
    throw TrialIsOver();
  }

  /// Of each step, in order.
  const std::vector<double>& seconds() const { return seconds_; }

 private:
  static void finish_device(const Trainer& trainer) {
    if (trainer.device().is_cuda()) torch::cuda::synchronize(trainer.device().index());
  }

  int64_t steps_;
  Clock::time_point start_;
  std::vector<double> seconds_;
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::string describe_end(int wait_status) {
  if (WIFSIGNALED(wait_status))
    return fmt::format("killed by SIG{}{}", ::sigabbrev_np(WTERMSIG(wait_status)),
                       WTERMSIG(wait_status) == SIGKILL ? " (was memory short?)" : "");
  return fmt::format("ended with status {} and no error", WEXITSTATUS(wait_status));
}

void set_one(Config& wrapper, c10::ScalarType dtype) {
  constexpr const char* place = "the trial";
  if (dtype == c10::kFloat) {
    wrapper.set("type", "OptimWrapper", place);
    return;
  }
  wrapper.set("type", "AmpOptimWrapper", place);
  wrapper.set("dtype", dtype_name(dtype), place);
}

}  // namespace

void set_precision(Config& config, c10::ScalarType dtype) {
  apply_older_keys(config);
  auto optim_wrapper = config.child("optim_wrapper");
  const auto names = wrapper_names(optim_wrapper);
  if (names.empty()) set_one(optim_wrapper, dtype);
  for (const auto& name : names) {
    auto wrapper = optim_wrapper.child(name);
    set_one(wrapper, dtype);
  }
}

void run_trial(Config config, const RunOptions& options, c10::ScalarType dtype, int64_t steps,
               const std::filesystem::path& file) {
  set_precision(config, dtype);
  config.override_with(
      "default_hooks.checkpoint={type: CheckpointHook, interval: -1, save_last: false}");
  Trainer trainer(std::move(config), options);
  trainer.parts().test_loader.reset();  // no validation between the steps
  auto hook = std::make_unique<TrialHook>(steps);
  const auto& seconds = hook->seconds();
  trainer.register_hook(std::move(hook));
  try {
    trainer.train();
  } catch (const TrialIsOver&) {}
  HALFSTEP_CHECK_USAGE(!seconds.empty(), "doctor",
                       "a config must make a step to be tried, but it made none; give another one");
  const auto warm_up = std::min<size_t>(trial_warm_up, seconds.size() / 2);
  const std::vector<double> measured(seconds.begin() + static_cast<std::ptrdiff_t>(warm_up),
                                     seconds.end());
  const auto device = trainer.device();
  const nlohmann::ordered_json result{
      {"seconds", median(measured)},
      {"memory", device.is_cpu() ? static_cast<int64_t>(peak_resident_bytes() >> 20)
                                 : peak_mebibytes(device)},
      {"steps", measured.size()},
      {"skipped", trainer.progress().skipped_steps}};
  write_file(file, result.dump());
}

Trial try_in_process(const std::vector<std::string>& command, const std::filesystem::path& file,
                     const std::function<bool()>& stop) {
  std::error_code ignored;
  std::filesystem::remove(file, ignored);
  // Not rank 0, whose output goes to the console.
  detail::RankProcess process(1, {.program = command.front(), .words = command}, {});
  const auto ignore = [](const std::string&) {};
  while (process.is_running() && !stop()) {
    std::vector<pollfd> pipes;
    for (const int pipe : process.open_pipes()) pipes.push_back({pipe, POLLIN, 0});
    ::poll(pipes.data(), pipes.size(), /*timeout in ms=*/100);
    for (const auto& pipe : pipes)
      if (pipe.revents != 0) process.read_pipe(pipe.fd, ignore);
    process.reap(ignore);
  }
  Trial trial;
  std::ifstream stream(file);
  const auto result = nlohmann::json::parse(stream, nullptr, /*allow_exceptions=*/false);
  if (result.is_object()) {
    trial.seconds = result.at("seconds");
    trial.memory = result.at("memory");
    trial.steps = result.at("steps");
    trial.skipped = result.at("skipped");
    return trial;
  }
  trial.error = describe_end(process.wait_status().value_or(0));
  for (const auto& line : process.errors().last())
    if (line.starts_with("error: ")) trial.error = line.substr(7);
  return trial;
}

}  // namespace halfstep::train
