#include "halfstep/scaling/dialects.h"

#include "halfstep/core/error.h"

#include <array>
#include <limits>
#include <utility>

namespace halfstep::dialects {

namespace {

constexpr double kSmall = 32768.0;        // 2^15
constexpr double kLarge = 4294967296.0;   // 2^32
constexpr double kApexMost = 16777216.0;  // 2^24

GradScalerOptions fixed(double scale) {
  return GradScalerOptions().init_scale(scale).dynamic(false);
}

GradScalerOptions unchecked(double scale) {
  return fixed(scale).check_overflow(false);
}

/// What Python floats and a factor of 2 give: nothing is rounded to float32 and nothing bounded.
GradScalerOptions python_floats() {
  return GradScalerOptions()
      .arithmetic(ScaleArithmetic::float64)
      .backoff_divides(true)
      .grow_only_if_finite(false);
}

GradScalerOptions deepspeed_rule() {
  return python_floats()
      .growth_interval(1000)
      .growth_count(GrowthCount::since_overflow)
      .growth_offset(1);
}

}  // namespace

GradScalerOptions torch() {
  return {};
}

GradScalerOptions mmcv() {
  return torch();
}
GradScalerOptions mmcv_static(double scale) {
  return fixed(scale);
}
GradScalerOptions mmcv_legacy() {
  return python_floats()
      .init_scale(kLarge)
      .growth_interval(1000)
      .growth_count(GrowthCount::since_overflow)
      .min_scale(1);
}
GradScalerOptions mmcv_legacy_static(double scale) {
  return unchecked(scale);
}

GradScalerOptions apex() {
  return python_floats().max_scale(kApexMost);
}
GradScalerOptions apex_static(double scale) {
  return unchecked(scale);
}
GradScalerOptions apex_hysteresis(int64_t hysteresis) {
  return torch().hysteresis(hysteresis).hysteresis_refill(HysteresisRefill::on_clean_step);
}

GradScalerOptions oneflow() {
  return GradScalerOptions()
      .arithmetic(ScaleArithmetic::float32)
      .backoff_divides(true)
      .min_scale(1)
      .max_scale(std::numeric_limits<float>::max());
}
GradScalerOptions oneflow_static(double scale) {
  return unchecked(scale);
}

GradScalerOptions keras() {
  return GradScalerOptions()
      .init_scale(kSmall)
      .arithmetic(ScaleArithmetic::float32)
      .grow_only_if_finite(false);
}
GradScalerOptions keras_static(double scale) {
  return unchecked(scale);
}
GradScalerOptions tf_keras() {
  return jmp(kSmall);
}
GradScalerOptions tf_keras_static(double scale) {
  return unchecked(scale);
}

GradScalerOptions jmp(double scale) {
  return GradScalerOptions()
      .init_scale(scale)
      .arithmetic(ScaleArithmetic::float32)
      .backoff_divides(true)
      .min_scale(1);
}
GradScalerOptions jmp_static(double scale) {
  return unchecked(scale);
}
GradScalerOptions jmp_no_op() {
  return GradScalerOptions().enabled(false);
}

GradScalerOptions deepspeed() {
  return deepspeed_rule().min_scale(1).hysteresis(2).at_min_scale(AtMinScale::stop);
}
GradScalerOptions deepspeed_fused() {
  return deepspeed_rule().init_scale(kLarge).min_scale(1);
}
GradScalerOptions deepspeed_unfused() {
  return deepspeed_rule().min_scale(0.25);
}
GradScalerOptions deepspeed_static(double scale) {
  return fixed(scale);
}

GradScalerOptions megatron() {
  return GradScalerOptions()
      .init_scale(kLarge)
      .growth_interval(1000)
      .arithmetic(ScaleArithmetic::float32)
      .grow_only_if_finite(false)
      .min_scale(1)
      .hysteresis(2);
}
GradScalerOptions megatron_static(double scale) {
  return fixed(scale);
}

namespace {

struct Entry {
  const char* name;
  GradScalerOptions (*make)();
};

constexpr double kUnset = 65536.0;

constexpr std::array kEntries{
    Entry{"torch", torch},
    Entry{"mmcv", mmcv},
    Entry{"mmcv_static", [] { return mmcv_static(); }},
    Entry{"mmcv_legacy", mmcv_legacy},
    Entry{"mmcv_legacy_static", [] { return mmcv_legacy_static(kUnset); }},
    Entry{"apex", apex},
    Entry{"apex_static", [] { return apex_static(kUnset); }},
    Entry{"apex_hysteresis", [] { return apex_hysteresis(2); }},
    Entry{"oneflow", oneflow},
    Entry{"oneflow_static", [] { return oneflow_static(kUnset); }},
    Entry{"keras", keras},
    Entry{"keras_static", [] { return keras_static(kUnset); }},
    Entry{"tf_keras", tf_keras},
    Entry{"tf_keras_static", [] { return tf_keras_static(kUnset); }},
    Entry{"jmp", [] { return jmp(); }},
    Entry{"jmp_static", [] { return jmp_static(kUnset); }},
    Entry{"jmp_no_op", jmp_no_op},
    Entry{"deepspeed", deepspeed},
    Entry{"deepspeed_fused", deepspeed_fused},
    Entry{"deepspeed_unfused", deepspeed_unfused},
    Entry{"deepspeed_static", [] { return deepspeed_static(kUnset); }},
    Entry{"megatron", megatron},
    Entry{"megatron_static", [] { return megatron_static(kUnset); }},
};

}  // namespace

GradScalerOptions by_name(const std::string& name) {
  std::string known;
  for (const auto& entry : kEntries) {
    if (name == entry.name) return entry.make();
    known += known.empty() ? entry.name : c10::str(", ", entry.name);
  }
  detail::raise<UsageError>("dialects::by_name", "the dialect must be one of ", known,
                            ", but got '", name, "'; see halfstep/scaling/dialects.h");
}

std::vector<std::string> names() {
  std::vector<std::string> result;
  result.reserve(std::size(kEntries));
  for (const auto& entry : kEntries) result.emplace_back(entry.name);
  return result;
}

}  // namespace halfstep::dialects
