#pragma once
#include "halfstep/dist/process_group.h"
#include "halfstep/optim/master_weights.h"
#include "halfstep/optim_wrapper/optim_wrapper.h"
#include "halfstep/scaling/grad_scaler.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/loop/amp_settings.h"
#include "halfstep/train/optim/scheduler_list.h"

#include <memory>
#include <string>
#include <vector>

#include <torch/nn/module.h>

namespace halfstep::train {

/// One optimizer of a run with what belongs to it.
struct WrapperParts {
  std::string name;  ///< as the config has it; empty where the run has one optimizer
  AmpSettings amp;
  std::vector<std::string> parameter_names;  ///< of those trained, in the optimizer's order
  std::shared_ptr<OptimWrapper> wrapper;
  optim::MasterWeights master_weights = optim::MasterWeights::none;  ///< the optimizer's
  bool exchanges_gradients = false;  ///< with other ranks: they have their weights' dtype
  SchedulerList schedulers;
  std::vector<std::string> notes;  ///< lines for the log about how the optimizer was built

  /// "key" for the one optimizer of a run, "NAME.key" of several.
  std::string named(const std::string& key) const { return name.empty() ? key : name + "." + key; }

  /// The rate to show: that which schedules move by themselves where groups have rates of their own
  /// (OptimWrapper::base_settings), else the group's.
  double learning_rate() const;

  /// The wrapper's scaler; null where it has none (an OptimWrapper).
  GradScaler* scaler() const;

  /// Goes on in the next wider precision without a loss scale; see AmpSettings::fall_back. Throws
  /// UsageError for 16-bit weights.
  void fall_back();

  /// Lets a fused optimizer keep copies of the weights in amp's dtype, and none in float32 or where
  /// the weights have that dtype themselves (master_weights): autocast takes them instead of
  /// casting each weight in each step, to the same bits. Where float16 is rehearsed, the gradients
  /// of float32 weights stay in float16 too, unless they are added up over iterations or clipped
  /// outside of the optimizer, as a GPU does both in float32. Drops all gradients.
  void choose_shadow_weights() const;
};

/// What `optim_wrapper` holds, built: one wrapper for all of the model's parameters,
///
///   optim_wrapper: {type: AmpOptimWrapper, accumulative_counts: 8, clip_grad: {max_norm: 1},
///                   optimizer: {type: Adam, lr: 1e-3}}
///
/// or, with `constructor: OptimWrapperConstructor` (or MultiOptimWrapperConstructor), one for each
/// further key, which names a submodule of the model and holds such a mapping for its parameters.
/// With `amp`, --amp is applied first (switch_amp_on), and what it warns about goes to standard
/// error. With `group` the scalers of all its ranks skip together. Throws UsageError with file and
/// line.
std::vector<WrapperParts> build_wrappers(Config& optim_wrapper, torch::nn::Module& model,
                                         c10::Device device, bool amp,
                                         dist::ProcessGroup* group = nullptr);

/// What testing needs of the same mapping: precision, and the model's 16-bit weights. The keys of
/// training are allowed, not read; there are no wrappers.
std::vector<WrapperParts> read_wrappers_for_testing(Config& optim_wrapper, torch::nn::Module& model,
                                                    c10::Device device, bool amp);

/// AmpSettings::describe_dtype of all of them, each text once: "bfloat16 (autocast) and float32".
std::string describe_dtypes(const std::vector<WrapperParts>& wrappers);

/// Gives each optimizer its schedules by `param_scheduler`: a list, which holds for each of them,
/// or, where they have names, a mapping of some of these to lists. Throws UsageError with file and
/// line.
void build_schedulers(Config& config, bool run_by_epoch, std::vector<WrapperParts>& wrappers);

}  // namespace halfstep::train
