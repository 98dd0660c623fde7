#pragma once
#include "halfstep/autocast/op_policy.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/loop/loss_scale.h"

#include <optional>
#include <string>
#include <vector>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace halfstep::train {

/// What `optim_wrapper` says about precision.
///
///   optim_wrapper: {type: OptimWrapper, …}                                     float32
///   optim_wrapper: {type: AmpOptimWrapper, …}                                  device's dtype
///   optim_wrapper: {type: AmpOptimWrapper, dtype: float16, loss_scale: 512., …}
///
/// `loss_scale` is what LossScale reads. `auto`, the default, and `dynamic` are dynamic for float16
/// and off for bfloat16, whose range is float32's; a number or a mapping is obeyed there too. In
/// float32 neither dtype nor loss_scale nor autocast is read: one config serves both modes.
struct AmpSettings {
  bool enabled = false;
  c10::ScalarType dtype = c10::kFloat;
  std::optional<OpPolicy> policy =
      std::nullopt;  ///< `autocast`, see read_policy; none: LibTorch's lists
  bool scaling = false;
  LossScale loss_scale;
  c10::DeviceType device_type = c10::kCPU;
  std::string unused;  ///< "dtype and loss_scale": keys given for nothing in float32

  /// Reads the mapping for a device. Throws UsageError with the place for a type, dtype or scale it
  /// can't be.
  static AmpSettings read(Config& optim_wrapper, c10::Device device);

  /// Whether float16 is rehearsed (HalfRehearsal): on the CPU it always is.
  bool rehearses() const;

  /// What a run goes on with where no scale ends the overflows: bfloat16 instead of float16,
  /// float32 instead of bfloat16; both without a loss scale.
  void fall_back();

  /// "bfloat16 (autocast)", "float16 (autocast, rehearsed: …)" or "float32".
  std::string describe_dtype() const;
  /// "dynamic from 65536", "static 512" or "off (…)" with the reason.
  std::string describe_scale() const;
};

/// The names of the wrappers that `optim_wrapper` holds where it has `constructor:
/// OptimWrapperConstructor` (or MultiOptimWrapperConstructor); none for the single one of
/// DefaultOptimWrapperConstructor, the default, and of what the program registered
/// (optim_wrapper_constructors). Throws UsageError with file and line for another constructor, for
/// names without it, and for a key of a wrapper beside them.
std::vector<std::string> wrapper_names(Config& optim_wrapper);

/// What --amp does: each OptimWrapper becomes AmpOptimWrapper. Returns a warning for each that is
/// one already, with its name where there are several. Throws UsageError for any other type.
std::vector<std::string> switch_amp_on(Config& optim_wrapper);

}  // namespace halfstep::train
