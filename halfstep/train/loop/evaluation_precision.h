#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/loop/wrapper_parts.h"

#include <optional>
#include <string>
#include <vector>

namespace halfstep::train {

/// In which precision a model is evaluated, by a validation or `halfstep test`: that in which it is
/// trained, unless `val_cfg` (or `test_cfg`) says another in MMEngine's words.
///
///   val_cfg: {type: ValLoop, fp16: false}    float32
///   val_cfg: {type: ValLoop, fp16: true}     the AmpOptimWrapper's; without one the device's dtype
///
/// Several optimizers must agree (dtype and op policy) where `fp16` does not choose. One that falls
/// back later takes the evaluation along: it is made in the widest precision of those that agreed.
/// Difference from MMEngine, which evaluates in float32 where `fp16` is missing.
class EvaluationPrecision {
 public:
  /// That of all wrappers.
  EvaluationPrecision() = default;

  /// Reads `loop`, the mapping of the key `name` (val_cfg, test_cfg), if it is given. Throws
  /// UsageError with file and line for a `type` that is not its loop's, and where wrappers don't
  /// agree.
  static EvaluationPrecision read(std::optional<Config> loop, const std::string& name,
                                  Config& optim_wrapper, const std::vector<WrapperParts>& wrappers,
                                  c10::Device device);

  /// What it is now. The reference is to a part of `wrappers` or of this object.
  const AmpSettings& of(const std::vector<WrapperParts>& wrappers) const;

 private:
  std::optional<AmpSettings> fixed_;
  bool amp_only_ = false;  // of wrappers, those that began in 16 bits
  std::vector<bool> began_in_amp_;
};

}  // namespace halfstep::train
