#pragma once
#include "halfstep/dist/ddp_options.h"
#include "halfstep/dist/launch_environment.h"
#include "halfstep/dist/process_group.h"
#include "halfstep/optim_wrapper/optim_wrapper_dict.h"
#include "halfstep/train/data/loader.h"
#include "halfstep/train/hooks/hook_list.h"
#include "halfstep/train/hooks/log_processor.h"
#include "halfstep/train/loop/evaluation_precision.h"
#include "halfstep/train/loop/loop_settings.h"
#include "halfstep/train/loop/wrapper_parts.h"
#include "halfstep/train/metrics/evaluator.h"
#include "halfstep/train/registry/registry.h"

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace halfstep::train {

/// What a run takes besides its config.
struct RunOptions {
  std::filesystem::path work_dir = {};
  c10::Device device = c10::kCPU;
  bool amp = false;                   ///< --amp: see switch_amp_on
  std::optional<uint64_t> seed = {};  ///< instead of the config's randomness.seed
  bool resume = false;
  std::filesystem::path resume_from = {};  ///< empty: the newest checkpoint of the work dir
  bool precision_report = false;           ///< --precision-report: record the precision of one step
  bool trace_overflow = false;             ///< --trace-overflow: see OverflowTraceHook
  std::filesystem::path load_from = {};    ///< --load-from: instead of the config's load_from
  dist::LaunchEnvironment launch = {};     ///< --launcher: who this process is in its job
  dist::ProcessGroup* group = nullptr;     ///< the processes of the job, joined; null: one process
  bool auto_scale_lr = false;              ///< --auto-scale-lr: auto_scale_lr.enable is true
  bool requeue = false;                    ///< --requeue: after SIGUSR1 tell Slurm to start again
  bool late_outcomes = false;  ///< for tests: on the CPU, too, learn of skips as late as on a GPU
};

/// The parts a config names, built.
struct RunParts {
  uint64_t seed = 0;
  LoopSettings loop;
  std::shared_ptr<BaseModel> model;
  std::vector<WrapperParts> wrappers;      ///< at least one
  std::unique_ptr<OptimWrapperDict> dict;  ///< of them, where they have names; else null
  HookList hooks;
  LogProcessor log_processor;
  std::unique_ptr<Loader> train_loader;
  /// val_dataloader, else test_dataloader; null where the config has neither.
  std::unique_ptr<Loader> test_loader;
  Evaluator evaluator;                       ///< what that one is measured by; empty: the default
  dist::DistributedDataParallelOptions ddp;  ///< how gradients are exchanged, if they are
  bool auto_scales_lr = false;               ///< see scale_rates
  /// Whether ranks draw different random numbers; see rank_seed.
  bool diff_rank_seed = true;
  std::string resolved_config;
  nlohmann::json settings;  ///< what a resumed run must have in common with this one

  /// What the model's train_step is given: the one wrapper, or the dict.
  OptimWrapperBase& optim_wrapper() const;

  EvaluationPrecision evaluation;

  /// The precision in which the model is evaluated.
  const AmpSettings& amp() const { return evaluation.of(wrappers); }
};

/// What a rank's generators begin with: the seed plus its number, as MMEngine's diff_rank_seed, or
/// the seed.
uint64_t rank_seed(const RunParts& parts, int rank);

/// The config's load_from, which `options` may set; empty where neither says one.
std::filesystem::path read_load_from(Config& config, const RunOptions& options);

/// Reads a whole config for training and builds every part; seeds LibTorch's generators first, with
/// `checkpoint_seed` where neither options nor config give a seed. Throws UsageError with file and
/// line for anything in the config that is unknown, ill-typed or out of range.
RunParts build_training(Config& config, const RunOptions& options,
                        std::optional<uint64_t> checkpoint_seed = std::nullopt);

/// Reads what testing needs: model, loss, precision, test_dataloader and test_evaluator (or, where
/// they are missing, val_dataloader and val_evaluator). The keys of training are
/// allowed, not read.
RunParts build_testing(Config& config, const RunOptions& options);

/// Reads what a model needs that meets neither training nor test data: the model itself and, as for
/// testing, its precision. All other keys are allowed, not read.
RunParts build_inference(Config& config, const RunOptions& options);

}  // namespace halfstep::train
