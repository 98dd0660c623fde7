#pragma once
#include "halfstep/scaling/grad_scaler_options.h"
#include "halfstep/scaling/late_read.h"
#include "halfstep/scaling/overflow_diagnosis.h"
#include "halfstep/scaling/overflow_log.h"
#include "halfstep/scaling/scale_state.h"
#include "halfstep/scaling/unscale.h"

#include <optional>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep::detail {

/// One optimizer of an update.
struct CheckedOptimizer {
  int64_t number;
  torch::optim::Optimizer* optimizer;
  const FoundInfs* found_infs;  ///< its own, by the gradients' device
  at::Tensor found_inf;         ///< all of them, with other ranks', on the scale's device
  bool stepped;                 ///< its step was called, so an overflow skipped it
};

/// Writes every update into the log and, while overflows go on at the minimum scale, finds out
/// whose gradients make them.
class OverflowWatch {
 public:
  explicit OverflowWatch(int64_t report_size) : log_(report_size) {}

  /// Around an update of the scale. `found_inf` is the sum over all optimizers. Syncs only while
  /// the count of ScaleState::stuck, as far as the host knows it, is not 0, or where asked.
  OverflowLog::ScaleBefore begin_update(const ScaleState& scale);
  void end_update(const OverflowLog::ScaleBefore& before, const ScaleState& scale,
                  const at::Tensor& found_inf, const std::vector<CheckedOptimizer>& optimizers,
                  int64_t patience);

  /// Whether there was an update yet.
  bool has_begun() const { return log_.has_begun(); }

  OverflowReport report() { return log_.report(); }
  void name_parameters(ParameterNames names) { search_.name_parameters(std::move(names)); }
  void ask() { asked_ = true; }
  const std::optional<OverflowDiagnosis>& diagnosis() const { return diagnosis_; }

 private:
  at::Tensor mask_of(const std::vector<CheckedOptimizer>& optimizers, const at::Tensor& found_inf);
  void learn_stuck(const ScaleState& scale);
  void diagnose(const ScaleState& scale);

  OverflowLog log_;
  OverflowSearch search_;
  LateRead reading_;     // the count of ScaleState::stuck on its way
  int reading_age_ = 0;  // updates since it was started
  int32_t stuck_ = 0;
  bool asked_ = false;
  std::optional<OverflowDiagnosis> diagnosis_;
};

}  // namespace halfstep::detail
