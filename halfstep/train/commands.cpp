#include "halfstep/train/commands.h"

#include "halfstep/core/device.h"
#include "halfstep/core/error.h"
#include "halfstep/core/low_precision_support.h"
#include "halfstep/core/version.h"
#include "halfstep/train/launch/requeue.h"
#include "halfstep/train/launch/slurm_train.h"
#include "halfstep/train/loop/older_keys.h"
#include "halfstep/train/loop/rank_files.h"
#include "halfstep/train/loop/ranks.h"
#include "halfstep/train/loop/trainer.h"
#include "halfstep/train/weights/load_weights.h"

#include <climits>
#include <csignal>
#include <cstdio>
#include <cstring>

#include <torch/cuda.h>

#include <fmt/format.h>
#include <unistd.h>

namespace halfstep::train {

namespace {

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = "";
  return ::gethostname(name, sizeof(name)) == 0 ? name : "?";
}

void print_setting(c10::Device device, const std::vector<WrapperParts>& wrappers) {
  fmt::print("halfstep {}, LibTorch {}\n", version(), torch_version());
  for (const auto& parts : wrappers) {
    const auto& amp = parts.amp;
    const auto whose = parts.name.empty() ? "device " + describe_device(device) : parts.name + ":";
    if (!parts.name.empty() && &parts == &wrappers.front())
      fmt::print("device {}\n", describe_device(device));
    fmt::print("{}{} dtype {}, loss scale {}\n", whose, parts.name.empty() ? "," : "",
               amp.describe_dtype(), amp.describe_scale());
  }
  for (const auto& parts : wrappers) {
    const auto& amp = parts.amp;
    if (!amp.enabled || amp.rehearses()) continue;
    const auto notice = missing_support_notice(device, amp.dtype);
    if (notice.empty()) continue;
    fmt::print("note: {}\n", notice);
    return;
  }
}

void print_run(const Trainer& trainer, const RunOptions& options, const std::string& config_name) {
  const auto& parts = trainer.parts();
  int64_t weights = 0;
  for (const auto& parameter : parts.model->parameters()) weights += parameter.numel();
  print_setting(trainer.device(), parts.wrappers);
  fmt::print("config {}, work dir {}, seed {}\n", config_name, trainer.work_dir().root().string(),
             parts.seed);
  const auto& loader = *parts.train_loader;
  const auto ranks = loader.options().ranks;
  fmt::print("{} parameters; {} training examples in {} batches of {}{}; {} {}{}\n", weights,
             loader.dataset().size(), loader.num_batches(), loader.total_batch_size(),
             ranks > 1 ? fmt::format(" ({} x {})", ranks, loader.options().batch_size) : "",
             parts.loop.length, parts.loop.by_epoch ? "epoch" : "iteration",
             parts.loop.length == 1 ? "" : "s");
  for (const auto& wrapper : parts.wrappers)
    for (const auto& note : wrapper.notes) fmt::print("{}\n", note);
  if (trainer.put_aside())
    fmt::print("{} there {} moved to {}\n",
               options.resume ? "checkpoints that are not this run's past" : "the earlier run",
               options.resume ? "were" : "was", trainer.put_aside()->string());
  if (!trainer.resumed_from().empty())
    fmt::print("resumed from {} after step {}\n", trainer.resumed_from().string(),
               trainer.progress().step);
  if (options.resume && trainer.resumed_from().empty())
    fmt::print("no checkpoint there yet: starting at the beginning\n");
  std::fflush(stdout);
}

void print_dtypes(const Trainer& trainer) {
  if (trainer.counted_steps() == 0) return;
  fmt::print("dtypes, counted from the dispatcher in {} of {} steps: {}\n", trainer.counted_steps(),
             trainer.steps_of_this_process(), trainer.dtypes().summary());
  for (const auto& parts : trainer.parts().wrappers) {
    const auto& policy = parts.amp.policy;
    if (!policy) continue;
    for (const auto& rule : policy->unmatched())
      fmt::print("the rule for {} in autocast.ops met no op call\n", rule);
    for (const auto& path : policy->unmatched_modules())
      fmt::print("the rule for {} in autocast.modules met no op call\n", path);
  }
}

void print_precision(const Trainer& trainer, const RunOptions& options) {
  if (!options.precision_report) return;
  if (!trainer.precision_report()) {
    fmt::print("no precision report: it is of the second step, and there was none\n");
    return;
  }
  fmt::print("precision of the second step (also in {}):\n{}",
             trainer.work_dir().precision_report_file().string(),
             trainer.precision_report()->text());
}

void print_skipped(const Trainer& trainer) {
  const auto& wrappers = trainer.parts().wrappers;
  for (size_t i = 0; i < wrappers.size(); ++i) {
    const auto& [updates, skipped] = trainer.counts(i);
    if (skipped == 0) continue;
    const auto whose = wrappers[i].name.empty() ? "" : wrappers[i].name + ": ";
    fmt::print("{}{} of {} steps were skipped because a gradient overflowed\n", whose, skipped,
               updates);
  }
}

// The saved config has every option in it but the device.
std::string resume_command(const Trainer& trainer, const std::string& program) {
  const auto& work_dir = trainer.work_dir();
  auto command = detail::shell_line({program, "train", work_dir.config_file().string(),
                                     "--work-dir", work_dir.root().string(), "--resume"});
  if (trainer.device() != parse_device("auto")) command += " --device " + trainer.device().str();
  return command;
}

}  // namespace

namespace {

// A launcher ends the others as soon as one has ended with a status: not before rank 0 has saved,
// and not by a signal, whose status would replace theirs.
void end_together(dist::ProcessGroup* group) {
  for (const int signal : {SIGTERM, SIGUSR1}) std::signal(signal, SIG_IGN);
  if (group != nullptr) group->barrier();
}

int run_training(Config config, const RunOptions& options, const std::string& config_name,
                 const std::string& program) {
  Trainer trainer(std::move(config), options);
  print_run(trainer, options, config_name);
  const auto outcome = trainer.train();
  print_dtypes(trainer);
  print_precision(trainer, options);
  const auto& checkpoint = trainer.last_saved();
  if (outcome == Trainer::Outcome::finished) {
    print_skipped(trainer);
    if (!checkpoint.empty()) fmt::print("checkpoint {}\n", checkpoint.string());
    return 0;
  }
  const int signal = trainer.stop_signal();
  fmt::print(
      "stopped {} after step {}: saved {}; go on with\n  {}\n",
      signal != 0 ? fmt::format("by SIG{}", ::sigabbrev_np(signal)) : std::string("by a hook"),
      trainer.progress().step, checkpoint.string(), resume_command(trainer, program));
  std::fflush(stdout);
  if (signal != 0) end_together(options.group);
  if (options.requeue && signal == SIGUSR1 && options.launch.rank == 0) {
    fmt::print("asking Slurm to put this job back into its queue\n");
    std::fflush(stdout);  // which may end this process at once
    fmt::print("{}\n", detail::requeue_job(dist::process_variables()));
  }
  return signal != 0 ? 128 + signal : 0;
}

// Of a machine's GPUs each rank takes its own; where it sees but one, the launcher has chosen.
c10::Device device_of_rank(c10::Device device, const dist::LaunchEnvironment& launch) {
  if (device.is_cpu() || device.index() != 0) return device;
  const auto count = static_cast<int>(torch::cuda::device_count());
  if (count == 1) return device;
  HALFSTEP_CHECK_USAGE(launch.local_rank < count, "launch",
                       "each process of a machine must have a GPU of its own, but there are ",
                       launch.local_world_size, " and ", count,
                       "; start fewer, or train with --device cpu");
  return {device.type(), static_cast<c10::DeviceIndex>(launch.local_rank)};
}

}  // namespace

int train_command(Config config, RunOptions options, const std::string& config_name,
                  const std::string& program) {
  const auto& launch = options.launch;
  if (launch.world_size == 1) return run_training(std::move(config), options, config_name, program);
  const auto folder = rank_folder(options.work_dir, launch.rank, options.resume);
  if (launch.rank != 0) redirect_output(folder);
  options.device = device_of_rank(options.device, launch);
  dist::ProcessGroupOptions joining(launch);
  if (options.device.is_cpu()) joining.backend(dist::Backend::gloo);
  read_dist_cfg(config, joining);
  dist::ProcessGroup group(joining);
  options.group = &group;
  fmt::print("process {} of {} ({}), on {}\n", launch.rank, launch.world_size,
             dist::backend_name(group.backend()), host_name());
  return group.run([&] { return run_training(std::move(config), options, config_name, program); });
}

int test_command(Config config, const RunOptions& options,
                 const std::filesystem::path& checkpoint) {
  auto parts = build_testing(config, options);
  const auto report = load_weights(*parts.model, checkpoint);
  if (!report.converted.empty()) fmt::print("{}", report.text());
  print_setting(options.device, parts.wrappers);
  const auto result = *evaluate(*parts.model, *parts.test_loader, options.device, parts.amp(),
                                parts.evaluator, {.testing = true});
  fmt::print("test loss {:.6f}\n", result.loss);
  for (const auto& [name, value] : result.metrics)
    if (name != "loss") fmt::print("test {} {:.4f}\n", name, value);
  return 0;
}

int print_config_command(Config config, const RunOptions& options, bool resolved) {
  if (resolved) {
    fmt::print("{}", build_training(config, options).resolved_config);
    return 0;
  }
  apply_older_keys(config);
  if (options.amp) {
    auto optim_wrapper = config.child("optim_wrapper");
    for (const auto& warning : switch_amp_on(optim_wrapper))
      fmt::print(stderr, "warning: {}\n", warning);
  }
  fmt::print("{}", config.resolved());
  return 0;
}

}  // namespace halfstep::train
