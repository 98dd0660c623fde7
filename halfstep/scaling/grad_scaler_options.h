#pragma once
#include <cstdint>

#include <c10/core/DeviceType.h>

namespace halfstep {

/// How a GradScaler starts and how its scale moves. The defaults are Python's.
///
///   GradScalerOptions(torch::kCPU).init_scale(1024).growth_interval(100)
class GradScalerOptions {
 public:
  /// `device_type` is kCPU or kCUDA. Default: kCUDA where CUDA works, else kCPU. Difference from
  /// Python: the default there is always "cuda".
  GradScalerOptions();
  GradScalerOptions(c10::DeviceType device_type) : device_type_(device_type) {}

  /// The device type a tensor handed to `GradScaler::update` must have, and the one that must work
  /// for the scaler to be enabled. The scale itself lies on the device of the first scaled tensor.
  GradScalerOptions& device_type(c10::DeviceType value);
  c10::DeviceType device_type() const { return device_type_; }

  /// The first scale. Default: 65536. Above 0 and finite, also once rounded to float32.
  GradScalerOptions& init_scale(double value);
  double init_scale() const { return init_scale_; }

  /// What the scale is multiplied by after `growth_interval` updates in a row without an inf or
  /// NaN. Default: 2. Above 1 and finite.
  GradScalerOptions& growth_factor(double value);
  double growth_factor() const { return growth_factor_; }

  /// What the scale is multiplied by after an inf or NaN. Default: 0.5. Above 0 and below 1.
  GradScalerOptions& backoff_factor(double value);
  double backoff_factor() const { return backoff_factor_; }

  /// Updates in a row without an inf or NaN that make the scale grow. Default: 2000. From 1 to
  /// 2^31-1, because the count is an int32 on the device.
  GradScalerOptions& growth_interval(int64_t value);
  int64_t growth_interval() const { return growth_interval_; }

  /// False: the scaler passes everything through. Default: true.
  GradScalerOptions& enabled(bool value);
  bool enabled() const { return enabled_; }

  /// Throws UsageError where a value is outside the range stated above. GradScaler calls it when it
  /// is made. Difference from Python: it checks growth_factor > 1 and backoff_factor < 1 only, and
  /// those only where enabled; a scale of 0 or an interval of 0 is accepted there and never works.
  void validate() const;

 private:
  c10::DeviceType device_type_;
  double init_scale_ = 65536.0;
  double growth_factor_ = 2.0;
  double backoff_factor_ = 0.5;
  int64_t growth_interval_ = 2000;
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
