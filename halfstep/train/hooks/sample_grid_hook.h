#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// Writes what a GAN makes of the same noise after every `interval` epochs (default 1): `count`
/// images (64), `columns` (8) to a row, into samples/epoch_N.png of the work dir. The noise comes
/// from `seed` (0) and a generator of its own: the run has the same bits with and without the hook.
class SampleGridHook : public Hook {
 public:
  /// From its entry of the config. Throws UsageError for a value out of range.
  explicit SampleGridHook(Config& config);

  /// Throws UsageError for a model that is no BaseGan.
  void before_run(Trainer& trainer) override;
  void after_train_epoch(Trainer& trainer) override;

 private:
  int64_t interval_, count_, columns_, seed_;
  at::Tensor noise_;
};

}  // namespace halfstep::train
