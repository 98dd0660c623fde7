#pragma once
#include "halfstep/optim/lr_scheduler.h"
#include "halfstep/optim/master_weights.h"
#include "halfstep/train/data/loader.h"
#include "halfstep/train/hooks/hook.h"
#include "halfstep/train/loop/amp_settings.h"
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
  bool late_outcomes = false;  ///< for tests: on the CPU, too, learn of skips as late as on a GPU
};

/// The parts a config names, built.
struct RunParts {
  uint64_t seed = 0;
  int64_t max_epochs = 1;
  AmpSettings amp;
  std::shared_ptr<Model> model;
  std::vector<std::string> parameter_names;  ///< of those trained, in the optimizer's order
  Loss loss;
  std::unique_ptr<torch::optim::Optimizer> optimizer;
  optim::MasterWeights master_weights = optim::MasterWeights::none;  ///< the optimizer's
  std::unique_ptr<optim::LRScheduler> lr_scheduler;  ///< null where the config has none
  bool schedule_by_epoch = true;                     ///< what lr_scheduler counts: epochs or steps
  std::vector<std::unique_ptr<Hook>> hooks;
  std::unique_ptr<Hook> checkpoint_hook;  ///< runs after all of `hooks`
  std::unique_ptr<Loader> train_loader;
  std::unique_ptr<Loader> test_loader;  ///< null where the config has no test_dataloader
  std::string resolved_config;
  nlohmann::json settings;  ///< what a resumed run must have in common with this one

  /// Calls `f` with every hook, in the order in which they run.
  template <class F>
  void for_each_hook(const F& f) const {
    for (const auto& hook : hooks) f(*hook);
    f(*checkpoint_hook);
  }

  /// Lets a fused optimizer keep copies of the weights in amp's dtype, and none in float32 or where
  /// the weights have that dtype themselves (master_weights): autocast takes them instead of
  /// casting each weight in each step, to the same bits. Where float16 is rehearsed, the gradients
  /// of float32 weights stay in float16 too.
  void choose_shadow_weights() const;
};

/// Reads a whole config for training and builds every part; seeds LibTorch's generators first, with
/// `checkpoint_seed` where neither options nor config give a seed. Throws UsageError with file and
/// line for anything in the config that is unknown, ill-typed or out of range.
RunParts build_training(Config& config, const RunOptions& options,
                        std::optional<uint64_t> checkpoint_seed = std::nullopt);

/// Reads what testing needs: model, loss, precision and test_dataloader. The keys of training are
/// allowed, not read.
RunParts build_testing(Config& config, const RunOptions& options);

}  // namespace halfstep::train
