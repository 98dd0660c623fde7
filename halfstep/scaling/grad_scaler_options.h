#pragma once
#include "halfstep/scaling/scale_rule.h"

#include <cstdint>
#include <memory>

#include <c10/core/DeviceType.h>
#include <c10/util/intrusive_ptr.h>

namespace c10d {
class ProcessGroup;
}

namespace halfstep {

namespace detail {
class RankAgreement;
}

/// What a GradScaler does once overflows go on although the scale is at its minimum: the network
/// itself makes infs or NaNs then, and no scale helps.
enum class AtMinScale {
  keep_going,  ///< nothing: the steps are skipped, as in Python
  stop,        ///< `update` throws UsageError with the diagnosis
  fall_back,  ///< `GradScaler::diagnosis` has the diagnosis: the caller changes the precision, as a
              ///< scaler can't change the autocast
};

/// How a GradScaler starts and how its scale moves. The defaults are Python's;
/// halfstep/scaling/dialects.h has those of other systems.
///
///   GradScalerOptions(torch::kCPU).init_scale(1024).growth_interval(100).min_scale(1)
class GradScalerOptions {
 public:
  /// `device_type` is kCPU or kCUDA. Default: kCUDA where CUDA works, else kCPU. Difference from
  /// Python: the default there is always "cuda".
  GradScalerOptions();

  /// Converts implicitly, so that `GradScaler scaler(device.type())` works.
  GradScalerOptions(c10::DeviceType device_type) : device_type_(device_type) {}

  /// The device type a tensor handed to `GradScaler::update` must have, and the one that must work
  /// for the scaler to be enabled. The scale itself lies on the device of the first scaled tensor.
  GradScalerOptions& device_type(c10::DeviceType value);
  c10::DeviceType device_type() const { return device_type_; }

  /// The first scale; `max_scale` where that is lower. Default: 65536. Above 0 and finite, also
  /// once rounded to float32, and not below `min_scale`.
  GradScalerOptions& init_scale(double value);
  double init_scale() const { return init_scale_; }

  /// False: a static scale, which no update moves (`GradScaler::update(new_scale)` does). Default:
  /// true.
  GradScalerOptions& dynamic(bool value);
  bool dynamic() const { return rule_.dynamic; }

  /// False: nobody looks for infs and NaNs, so every step is taken and none syncs; for a static
  /// scale only, as in OneFlow, Apex, MMCV's own scaler and TF-Keras. Default: true, a step with an
  /// inf or NaN is skipped.
  GradScalerOptions& check_overflow(bool value);
  bool check_overflow() const { return check_overflow_; }

  /// What the scale is multiplied by after `growth_interval` updates in a row without an inf or
  /// NaN. Default: 2. Above 1 and finite.
  GradScalerOptions& growth_factor(double value);
  double growth_factor() const { return rule_.growth_factor; }

  /// What the scale is multiplied by after an inf or NaN. Default: 0.5. Above 0 and below 1.
  GradScalerOptions& backoff_factor(double value);
  double backoff_factor() const { return rule_.backoff_factor; }

  /// True: backing off divides by `growth_factor` instead, and `backoff_factor` is not used.
  /// Default: false.
  GradScalerOptions& backoff_divides(bool value);
  bool backoff_divides() const { return rule_.backoff_divides; }

  /// Updates in a row without an inf or NaN that make the scale grow. Default: 2000. From 1 to
  /// 2^31-1, because the count is an int32 on the device.
  GradScalerOptions& growth_interval(int64_t value);
  int64_t growth_interval() const { return rule_.growth_interval; }

  /// Which updates count. Default: since_growth.
  GradScalerOptions& growth_count(GrowthCount value);
  GrowthCount growth_count() const { return rule_.growth_count; }

  /// Updates at the start and after each overflow that don't count yet: DeepSpeed's 1. Default: 0.
  GradScalerOptions& growth_offset(int64_t value);
  int64_t growth_offset() const { return rule_.growth_offset; }

  /// False: growth past the range makes the scale inf, from which float32 scales never come back.
  /// Default: true, that growth is left out.
  GradScalerOptions& grow_only_if_finite(bool value);
  bool grow_only_if_finite() const { return rule_.grow_only_if_finite; }

  /// The scale is never backed off below it. Default: 0, none. From 0 to `max_scale`.
  GradScalerOptions& min_scale(double value);
  double min_scale() const { return rule_.min_scale; }

  /// The scale never grows above it. Default: infinity, none.
  GradScalerOptions& max_scale(double value);
  double max_scale() const { return rule_.max_scale; }

  /// The overflow that backs the scale off: the first, second, … ; every further one does too,
  /// until a refill. Default: 1. From 1 to 2^31-1.
  GradScalerOptions& hysteresis(int64_t value);
  int64_t hysteresis() const { return rule_.hysteresis; }

  /// When `hysteresis` is full again. Default: on_growth.
  GradScalerOptions& hysteresis_refill(HysteresisRefill value);
  HysteresisRefill hysteresis_refill() const { return rule_.hysteresis_refill; }

  /// In what precision the scale is kept and multiplied. Default: mixed.
  GradScalerOptions& arithmetic(ScaleArithmetic value);
  ScaleArithmetic arithmetic() const { return rule_.arithmetic; }

  /// What to do after `min_scale_patience` overflows in a row that could not lower the scale: it is
  /// at min_scale, or, without one, about to leave float32's normal range. With a static scale
  /// every overflow is one of them. Default: keep_going.
  GradScalerOptions& at_min_scale(AtMinScale value);
  AtMinScale at_min_scale() const { return at_min_scale_; }

  /// How many of them it takes. Default: 1. At least 1.
  GradScalerOptions& min_scale_patience(int64_t value);
  int64_t min_scale_patience() const { return min_scale_patience_; }

  /// Ranks that train one model together: a step that one of them must skip all skip, and their
  /// scales stay equal. Each optimizer's flag is reduced once between its backward and its step, by
  /// `unscale_` or `step`: all ranks must call them for the same optimizers in the same order, also
  /// a rank whose optimizer has no gradients. The group needs a backend for the scale's device; on
  /// CUDA nothing syncs. The ranks' scales are compared at the first step and after `load_state`: a
  /// difference is a UsageError on all. Default: none, a rank looks at its own gradients.
  /// Difference from Python, where only FSDP's ShardedGradScaler does so.
  GradScalerOptions& process_group(const c10::intrusive_ptr<c10d::ProcessGroup>& group);
  const std::shared_ptr<const detail::RankAgreement>& rank_agreement() const { return ranks_; }

  /// How many of the last skipped updates `GradScaler::overflows` lists. Default: 16. From 1 to
  /// 65536.
  GradScalerOptions& report_size(int64_t value);
  int64_t report_size() const { return report_size_; }

  /// True: float16 gradients are unscaled too, in float16, where what unscaling makes small is
  /// lost: for parameters in float16 without masters, as FSDP's ShardedGradScaler and Apex's O3 do.
  /// Default: false, they are an error.
  GradScalerOptions& float16_gradients(bool value);
  bool float16_gradients() const { return float16_gradients_; }

  /// False: the scaler passes everything through. Default: true.
  GradScalerOptions& enabled(bool value);
  bool enabled() const { return enabled_; }

  /// How the scale moves, as one value.
  const ScaleRule& rule() const { return rule_; }

  /// Throws UsageError where a value is outside the range stated above. GradScaler calls it when it
  /// is made. Difference from Python: it checks growth_factor > 1 and backoff_factor < 1 only, and
  /// those only where enabled; a scale of 0 or an interval of 0 is accepted there and never works.
  void validate() const;

 private:
  void validate_rule(const char* where) const;

  c10::DeviceType device_type_;
  double init_scale_ = 65536.0;
  ScaleRule rule_;
  bool check_overflow_ = true;
  AtMinScale at_min_scale_ = AtMinScale::keep_going;
  int64_t min_scale_patience_ = 1;
  int64_t report_size_ = 16;
  std::shared_ptr<const detail::RankAgreement> ranks_;
  bool float16_gradients_ = false;
  bool enabled_ = true;
};

namespace detail {
// One rule each, for options, setters and loaded states; `where` opens the message.
void check_scale(double value, const char* name, const char* where);
void check_growth_factor(double value, const char* where);
void check_backoff_factor(double value, const char* where);
void check_growth_interval(int64_t value, const char* where);
}  // namespace detail

}  // namespace halfstep
