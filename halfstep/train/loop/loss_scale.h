#pragma once
#include "halfstep/scaling/grad_scaler_options.h"
#include "halfstep/train/config/config.h"

#include <string>

namespace halfstep::train {

/// What a config says about the loss scale.
///
///   loss_scale: dynamic                                  torch's scaler
///   loss_scale: 512.                                     static: it stays, overflows are skipped
///   loss_scale: {init_scale: 1024, growth_interval: 100} torch's with other numbers
///   loss_scale: {dialect: apex, min_scale: 128}          another system's with other numbers
///   loss_scale: {mode: dynamic, scale_window: 500}       MMCV's own scaler, as its configs say it
///
/// Twenty overflows in a row at the minimum scale end the run unless `at_min_scale` says otherwise.
struct LossScale {
  /// torch's, dynamic.
  LossScale();

  std::string dialect = "torch";
  GradScalerOptions options;

  /// Reads the key `loss_scale` of `optim_wrapper`, which must be there. Throws UsageError with the
  /// place for what it can't be.
  static LossScale read(Config& optim_wrapper);

  /// "dynamic, from 65536", "static 512, unchecked (oneflow_static)".
  std::string describe() const;
};

}  // namespace halfstep::train
