#pragma once
#include "halfstep/scaling/grad_scaler_options.h"

#include <string>
#include <vector>

namespace halfstep::dialects {

/// How other systems move their loss scale, as options to start from:
///
///   halfstep::GradScaler scaler(halfstep::dialects::apex().min_scale(128));
///
/// Numbers are those systems' defaults. Given the same overflows in the same order, scale and skips
/// are theirs at every step, to the bit. What they do around it (printing, when they unscale) is
/// not copied. The device type is GradScalerOptions' default; change it by `device_type`.

/// torch.amp.GradScaler, also by Accelerate and Lightning: GradScalerOptions().
GradScalerOptions torch();

/// MMCV 1.x and MMEngine with `loss_scale='dynamic'` or a dict without `mode`: torch's.
GradScalerOptions mmcv();
/// The same with `loss_scale=512.`: the scale stays, a step with an overflow is skipped.
GradScalerOptions mmcv_static(double scale = 512.0);
/// MMCV's own LossScaler, used before PyTorch 1.6 (a dict with `mode='dynamic'`): from 2^32, floor
/// 1, grows after 1000 updates without bound.
GradScalerOptions mmcv_legacy();
/// The same with `mode='static'`: nobody checks for overflow, every step is taken.
GradScalerOptions mmcv_legacy_static(double scale);

/// apex.amp with `loss_scale="dynamic"`: from 2^16 up to 2^24, no floor.
GradScalerOptions apex();
/// apex.amp with a number: nobody checks for overflow, every step is taken.
GradScalerOptions apex_static(double scale);
/// The kernel `update_scale_hysteresis`: torch's rule, but the first `hysteresis` - 1 overflows
/// since the last clean step leave the scale alone.
GradScalerOptions apex_hysteresis(int64_t hysteresis);

/// oneflow.amp.GradScaler: floor 1, ceiling float32's largest number. Its backoff is 1/growth
/// always, so it divides.
GradScalerOptions oneflow();
/// oneflow.amp.StaticGradScaler: nobody checks for overflow, every step is taken.
GradScalerOptions oneflow_static(double scale);

/// Keras 3's LossScaleOptimizer: from 2^15, no floor; growth past float32 makes the scale inf.
GradScalerOptions keras();
/// A Keras 3 optimizer's `loss_scale_factor`: nobody checks for overflow, every step is taken.
GradScalerOptions keras_static(double scale);
/// tf_keras.mixed_precision.LossScaleOptimizer: from 2^15, floor 1.
GradScalerOptions tf_keras();
/// The same with `dynamic=False`: nobody checks for overflow, every step is taken.
GradScalerOptions tf_keras_static(double scale);

/// jmp.DynamicLossScale, which has no default scale: its README's 2^15. Floor 1.
GradScalerOptions jmp(double scale = 32768.0);
/// jmp.StaticLossScale as its README uses it: nobody checks for overflow, every step is taken.
GradScalerOptions jmp_static(double scale);
/// jmp.NoOpLossScale: a disabled scaler.
GradScalerOptions jmp_no_op();

/// DeepSpeed's DynamicLossScaler, of ZeRO, with the defaults of its JSON config: from 2^16, floor
/// 1, 1000 updates and one more at the start and after each overflow, hysteresis 2, and an overflow
/// at the floor ends the run. `consecutive_hysteresis` is
/// `.hysteresis_refill(HysteresisRefill::on_clean_step)`.
GradScalerOptions deepspeed();
/// DeepSpeed's FP16_Optimizer: from 2^32, no hysteresis, goes on at the floor.
GradScalerOptions deepspeed_fused();
/// DeepSpeed's FP16_UnfusedOptimizer: the same from 2^16, floor 0.25.
GradScalerOptions deepspeed_unfused();
/// DeepSpeed with a `loss_scale` above 0: the scale stays, a step with an overflow is skipped.
GradScalerOptions deepspeed_static(double scale);

/// Megatron-LM's DynamicGradScaler with its config's defaults: from 2^32, floor 1, 1000 updates,
/// hysteresis 2.
GradScalerOptions megatron();
/// Megatron-LM's ConstantGradScaler: the scale stays, a step with an overflow is skipped.
GradScalerOptions megatron_static(double scale);

/// A dialect by the name of its function above: "torch", "apex", "deepspeed_fused", …
/// "mmcv_static", "apex_static" and the other static ones take `scale` from
/// `GradScalerOptions::init_scale`, which is 65536 until set. Throws UsageError for another name.
GradScalerOptions by_name(const std::string& name);

/// The names, in the order above.
std::vector<std::string> names();

}  // namespace halfstep::dialects
