#pragma once
#include "halfstep/core/nested.h"
#include "halfstep/scaling/device_copies.h"
#include "halfstep/scaling/grad_scaler_options.h"
#include "halfstep/scaling/grad_scaler_state.h"
#include "halfstep/scaling/overflow_diagnosis.h"
#include "halfstep/scaling/overflow_report.h"
#include "halfstep/scaling/overflow_watch.h"
#include "halfstep/scaling/scale_state.h"
#include "halfstep/scaling/step_result.h"
#include "halfstep/scaling/takes_grad_scale.h"
#include "halfstep/scaling/unscale.h"

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <torch/optim/lbfgs.h>
#include <torch/optim/optimizer.h>
#include <torch/ordered_dict.h>
#include <torch/serialize/archive.h>

namespace halfstep {

/// Dynamic loss scaling: multiplies the loss so that small float16 gradients don't vanish, divides
/// the gradients again before the step, skips a step whose gradients overflowed, and moves the
/// scale. The state machine, the numbers and the kernels are those of Python's
/// torch.amp.GradScaler; the options make the scale move as in other systems
/// (halfstep/scaling/dialects.h).
///
///   halfstep::GradScaler scaler;
///   for (auto& batch : *loader) {
///     optimizer.zero_grad();
///     scaler.scale(compute_loss(batch)).backward();
///     scaler.unscale_(optimizer);  // only to look at or clip the gradients before the step
///     scaler.step(optimizer);      // once per optimizer
///     scaler.update();             // once, last
///   }
///
/// With several ranks, GradScalerOptions::process_group makes them skip together.
///
/// An optimizer is known by its address from the first `unscale_` or `step` that names it until
/// `update()`, which forgets it: don't destroy or move one in between. Not for use by two threads
/// at once.
///
/// Errors: a call that breaks a rule throws UsageError and changes nothing. Where the optimizer's
/// own step throws, its gradients stay as it got them (unscaled, or scaled for one that
/// TakesGradScale) and `step` may be called again. Where a kernel
/// throws in the middle of unscaling, some gradients are unscaled: zero them before going on.
class GradScaler {
 public:
  /// Throws UsageError for options out of range. Where CUDA is asked for but does not work, warns
  /// (TORCH_WARN) and is disabled, as in Python: see `is_enabled()`.
  explicit GradScaler(GradScalerOptions options = GradScalerOptions());

  // A copy would share the scale's tensors: hand over `state()` instead.
  GradScaler(const GradScaler&) = delete;
  GradScaler& operator=(const GradScaler&) = delete;

  /// Moves the state and the notes on optimizers; what is moved from may only be assigned to or
  /// destroyed.
  GradScaler(GradScaler&&) = default;
  GradScaler& operator=(GradScaler&&) = default;

  /// `outputs` times the scale, recorded by autograd; itself where disabled. The first call puts
  /// the scale on the device of its tensor; outputs on other devices get copies. Does not sync with
  /// a GPU, unless the scale lies there and an output on the CPU. The scale has no dimension, so
  /// float16 outputs stay float16 and are inf once loss times scale passes 65504: compute the loss
  /// in float32 (Autocast does). Throws UsageError for an undefined tensor.
  at::Tensor scale(const at::Tensor& outputs);

  /// The same for vectors, arrays, pairs, tuples, optionals and maps of tensors in any nesting,
  /// first to last.
  /// Difference from Python: other types don't compile, where Python returns a lazy iterator.
  template <detail::TensorNest Outputs>
  Outputs scale(const Outputs& outputs);

  /// The same for `{loss_a, loss_b}` and other lists that own nothing. `scale({loss})` is the
  /// overload above for one tensor and returns a tensor: for a list of one, pass a vector.
  std::vector<at::Tensor> scale(at::TensorList outputs);

  /// Divides the gradients of `optimizer` by the scale in place, once, and notes infs and NaNs.
  /// Call it after the last backward of the iteration and before clipping; `step` calls it where
  /// you did not. Does not sync. bfloat16 gradients are taken on CUDA too, through float32 copies
  /// (Difference from Python, which has no kernel for them). A gradient listed twice is divided
  /// once (Difference from Python). Nothing is noted for an optimizer without gradients (Difference
  /// from Python, where no way leads on from there). Throws UsageError before `scale`, for a second
  /// call before `update`, after `step`, and for float16 gradients.
  void unscale_(torch::optim::Optimizer& optimizer);

  /// Unscales where needed, then calls `optimizer.step()` unless a gradient has an inf or NaN.
  /// Reads found_inf once, which syncs; an optimizer that TakesGradScale gets the flag and the
  /// scale on the device and does not sync. After it the autocast cache is cleared, because
  /// optimizers write parameters in ways it does not see (Difference from Python). Gradients
  /// changed after `unscale_` are not checked again. Without `check_overflow` the step is always
  /// taken and nothing syncs. Where disabled: `optimizer.step(closure)`.
  /// Throws UsageError before `scale`, for a second call before `update`, where no parameter has a
  /// gradient, and, where enabled, for a closure with another optimizer than LBFGS: it would
  /// compute new gradients that nobody unscales. Differences from Python: a positional closure runs
  /// unchecked there, and an optimizer that takes the scale steps there without gradients.
  ///
  /// LBFGS needs its closure, which computes gradients of the scaled loss and returns the loss
  /// itself:
  ///
  ///   scaler.step(lbfgs, [&] {
  ///     lbfgs.zero_grad();
  ///     const auto loss = compute_loss();
  ///     scaler.scale(loss).backward();
  ///     return loss;
  ///   });
  ///
  /// The gradients of every evaluation are unscaled and checked (one sync each). Where one has an
  /// inf or NaN the whole step counts as skipped: parameters and LBFGS's state are put back to what
  /// they were before it, for which a copy of both is kept during the step. The same happens where
  /// the closure throws. Difference from Python, which cannot step LBFGS under a scaler: there its
  /// closure would run with scaled gradients.
  StepResult step(torch::optim::Optimizer& optimizer,
                  torch::optim::Optimizer::LossClosure closure = nullptr);

  /// Ends the iteration: backs the scale off where any optimizer found an inf or NaN, else counts
  /// towards growth, by the rule of the options; forgets the optimizers. Does not sync. Unless the
  /// options say otherwise, growth past float32's range is left out and the scale has no floor:
  /// `get_scale()` near 0 means the network itself makes NaNs. Throws UsageError before `scale`,
  /// where nothing was unscaled or stepped, and, with AtMinScale::stop, once overflows go on at the
  /// minimum scale (on CUDA some updates later, when the host learns of it).
  void update();

  /// Sets the scale instead, forgets the optimizers and leaves the growth count. Differences from
  /// Python: an int works, and a scale that is not above 0 and finite is a UsageError.
  void update(double new_scale);

  /// The same from a tensor of one element, on the device type of the options and without
  /// requires_grad; its value is copied, not checked. Does not sync between GPUs.
  void update(const at::Tensor& new_scale);

  // For steps that a CUDA graph holds. Graph does all this by itself; with a CUDA graph of your own
  // see optim::FusedOptimizer::why_not_captured.

  class QueuedUpdate;

  /// The first half of `update()`: what the scale's device does, and nothing that a CUDA graph
  /// can't hold. Does not sync. Throws as `update()`, but for AtMinScale::stop. An undefined update
  /// where disabled.
  QueuedUpdate queue_update();

  /// The second half: what the host does, at each launch anew: writes the update to the history and
  /// looks for what makes overflows. Throws UsageError with AtMinScale::stop as `update()`.
  void note_update(const QueuedUpdate& update);

  /// Why a step and an update can't be captured now, as a clause: ranks agree over a process group,
  /// there was no update yet, or optimizers were unscaled or stepped since the last one. Empty
  /// where they can, and where disabled.
  std::string why_not_captured() const;

  /// Forgets what was unscaled and stepped since the last update: after an iteration that ended
  /// halfway. The scale and its history stay; gradients that were divided stay divided, so zero
  /// them.
  void forget_step() { records_.clear(); }

  /// The scale; 1 where disabled. Syncs with its device once there was a scaled output.
  double get_scale() const;

  /// The live 0-dim float32 scale, which `update` changes in place; undefined before the first
  /// `scale`. Does not sync.
  const at::Tensor& get_scale_async() const { return scale_state_.scale(); }

  /// The options, as the setters and `load_state` left them.
  const GradScalerOptions& options() const { return options_; }

  /// As in the options, or as set or loaded since. Don't sync.
  double get_growth_factor() const { return options_.growth_factor(); }
  double get_backoff_factor() const { return options_.backoff_factor(); }
  int64_t get_growth_interval() const { return options_.growth_interval(); }

  /// Setters take effect at the next `update()` and have the ranges of GradScalerOptions (Python
  /// has none). They don't sync. Where disabled they only store (Python raises AttributeError).
  /// set_backoff_factor throws UsageError where the rule divides instead.
  void set_growth_factor(double new_factor);
  void set_backoff_factor(double new_factor);

  /// Difference from Python: where as many updates as the new interval, or more, are counted
  /// already, the count drops to one below it, so the next update without overflow grows the scale.
  /// Python compares for equality only and would not grow before the next overflow.
  void set_growth_interval(int64_t new_interval);

  /// Whether it scales: false where the options say so, or where they ask for CUDA and it does not
  /// work. A disabled scaler passes everything through.
  bool is_enabled() const { return options_.enabled(); }

  /// Updates in a row without an inf or NaN since the scale last grew or backed off, or since the
  /// last overflow with GrowthCount::since_overflow; `update` with a new scale leaves it. Syncs
  /// like `get_scale`.
  int64_t growth_tracker() const;

  /// The overflows left until the scale backs off, from the hysteresis of the options down to 1.
  /// Syncs like `get_scale`.
  int64_t hysteresis_tracker() const;

  /// The flags noted for `optimizer` since the last `update`, keyed by the gradients' device (with
  /// its index); empty where there are none. Does not sync.
  FoundInfs found_inf_per_device(const torch::optim::Optimizer& optimizer) const;

  /// What happened so far: updates, overflows, skipped steps, and the last of them with their scale
  /// and who found them. It is kept on the device without a sync; this call syncs. Counts from when
  /// this object was made: it is no part of the state.
  OverflowReport overflows() { return watch_.report(); }

  /// Names for diagnoses, from a module's `named_parameters()`; replaces the earlier ones. Keyed by
  /// identity, so call it again where parameters are replaced by others.
  void name_parameters(const torch::OrderedDict<std::string, at::Tensor>& named);

  /// The next `update()` looks at each gradient and, where there was an overflow, leaves a
  /// diagnosis. Costs that update a sync. Gradients must not be zeroed before it.
  void diagnose_next_update() { watch_.ask(); }

  /// Why overflows don't end: there while overflows go on at the minimum scale and the policy of
  /// the options is not keep_going, after `min_scale_patience` of them, and after
  /// `diagnose_next_update`. Looking at single gradients syncs and happens only then: an ordinary
  /// step costs nothing. Empty again once an update comes without overflow. On CUDA the host learns
  /// of it some updates late.
  ///
  ///   GradScaler scaler(GradScalerOptions().min_scale(1).at_min_scale(AtMinScale::fall_back));
  ///   …
  ///   scaler.update();
  ///   if (scaler.diagnosis()) {  // from now on in bfloat16, which needs no scale
  ///     std::cerr << scaler.diagnosis()->what() << '\n';
  ///     dtype = torch::kBFloat16;
  ///     scaler = GradScaler(GradScalerOptions().enabled(false));
  ///   }
  const std::optional<OverflowDiagnosis>& diagnosis() const { return watch_.diagnosis(); }

  /// The state to save; std::nullopt where disabled. Call it after `update()`: what was unscaled
  /// or stepped since is not in it. Syncs like `get_scale`.
  std::optional<GradScalerState> state() const;

  /// Continues from `state`, also before the first `scale`, and forgets the optimizers (Difference
  /// from Python). A count at or past the interval drops to one below it, as in
  /// `set_growth_interval`. Nothing happens where disabled. Throws UsageError for std::nullopt, and
  /// (Difference from Python) for values out of range: a scale of 0 or NaN never recovers.
  void load_state(const std::optional<GradScalerState>& state);

  /// `state()` and `load_state()` with a torch archive and Python's five keys; a disabled scaler
  /// writes none. So torch::save(scaler, file) and torch::load(scaler, file) work.
  void save(torch::serialize::OutputArchive& archive) const;
  void load(torch::serialize::InputArchive& archive);

 private:
  enum class Stage { ready, unscaled, stepped };
  struct Record {
    torch::optim::Optimizer* optimizer = nullptr;
    int64_t number = 0;  // among those the scaler ever saw
    Stage stage = Stage::ready;
    FoundInfs found_infs;
    at::Tensor found_inf;  // all of them, with other ranks', on the scale's device
  };

  using Records = std::unordered_map<const torch::optim::Optimizer*, Record>;

  at::Tensor scale_with(std::optional<detail::DeviceCopies>& scales, const at::Tensor& output);
  void prepare_scale(const at::Tensor& first_output);
  void check_scale_exists(const char* where) const;
  Record& record_of(torch::optim::Optimizer& optimizer);
  void note(Record& record, FoundInfs found_infs);
  at::Tensor combine(const FoundInfs& found_infs) const;
  FoundInfs divide_gradients(torch::optim::Optimizer& optimizer, const char* where) const;
  StepResult step_taking_scale(torch::optim::Optimizer& optimizer, TakesGradScale& taker,
                               Record& record);
  StepResult step_ordinary(torch::optim::Optimizer& optimizer, Record& record);
  at::Tensor all_found_infs() const;
  StepResult step_lbfgs(torch::optim::LBFGS& optimizer,
                        const torch::optim::Optimizer::LossClosure& closure, Record& record);
  template <class Move>
  QueuedUpdate queue_update_by(const at::Tensor& found_inf, const Move& move);
  void write_history(const QueuedUpdate& update);

  GradScalerOptions options_;
  detail::ScaleState scale_state_;
  detail::OverflowWatch watch_;
  bool compare_ranks_ = true;  // at the next step
  Records records_;
  std::unordered_map<const torch::optim::Optimizer*, int64_t> numbers_;
};

/// An update of the scale that its device was given, and what was seen by then.
class GradScaler::QueuedUpdate {
 private:
  friend class GradScaler;
  Records records_;
  at::Tensor found_inf_;  // undefined: nobody checked
  detail::OverflowLog::ScaleBefore before_;
};

/// What torch::save and torch::load call: `save` and `load` as operators.
torch::serialize::OutputArchive& operator<<(torch::serialize::OutputArchive& archive,
                                            const GradScaler& scaler);
torch::serialize::InputArchive& operator>>(torch::serialize::InputArchive& archive,
                                           GradScaler& scaler);

template <detail::TensorNest Outputs>
Outputs GradScaler::scale(const Outputs& outputs) {
  if (!is_enabled()) return outputs;
  std::optional<detail::DeviceCopies> scales;
  auto scale_one = [&](const at::Tensor& output) { return scale_with(scales, output); };
  return detail::map_tensors(scale_one, outputs);
}

}  // namespace halfstep
