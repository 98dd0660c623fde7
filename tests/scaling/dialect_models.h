#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>

namespace halfstep::testing {

/// Another system's loss scaler, written after that system's source in its own terms and types. It
/// shares nothing with halfstep/scaling/scale_rule.cpp.
class ScalerModel {
 public:
  virtual ~ScalerModel() = default;

  /// One iteration; true where that system takes the optimizer's step.
  virtual bool iterate(bool overflow) = 0;
  virtual double scale() const = 0;
};

/// What DeepSpeed raises at the minimum scale.
class AtMinimum : public std::runtime_error {
 public:
  AtMinimum() : std::runtime_error("scale at minimum") {}
};

using ModelPointer = std::unique_ptr<ScalerModel>;

/// torch/amp/grad_scaler.py with aten's update kernel.
ModelPointer torch_model(double init, double growth, double backoff, int interval);

/// mmcv/runner/fp16_utils.py, LossScaler.
ModelPointer mmcv_model(double init, double scale_factor, int scale_window);

/// apex/amp/scaler.py, LossScaler("dynamic", …).
ModelPointer apex_model(double init, int scale_window, std::optional<double> min, double max);

/// apex/csrc/update_scale_hysteresis.cu.
ModelPointer apex_hysteresis_model(double init, double growth, double backoff, int interval,
                                   int hysteresis);

/// oneflow/user/kernels/dynamic_loss_scale_schedule_kernel.cpp.
ModelPointer oneflow_model(double init, double growth, int64_t period);

/// keras/src/optimizers/loss_scale_optimizer.py.
ModelPointer keras_model(double init, int growth_steps);

/// tf_keras/mixed_precision/loss_scale_optimizer.py.
ModelPointer tf_keras_model(double init, int growth_steps);

/// jmp/_src/loss_scale.py, DynamicLossScale.
ModelPointer jmp_model(double init, int period, int factor, double min);

/// deepspeed/runtime/fp16/loss_scaler.py, DynamicLossScaler.
struct DeepspeedSettings {
  double init_scale;
  int scale_window;
  double min_scale;
  int delayed_shift;
  bool consecutive_hysteresis = false;
  bool raise_error_at_min_scale = true;
};
ModelPointer deepspeed_model(const DeepspeedSettings& settings);

/// deepspeed/runtime/fp16/fused_optimizer.py and unfused_optimizer.py.
ModelPointer deepspeed_optimizer_model(double init, int window, double min);

/// megatron/core/optimizer/grad_scaler.py, DynamicGradScaler.
ModelPointer megatron_model(double init, double min, double growth, double backoff, int interval,
                            int hysteresis);

/// A scale that stays, with overflows skipped or not even looked for.
ModelPointer static_model(double scale, bool skips);

}  // namespace halfstep::testing
