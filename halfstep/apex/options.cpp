#include "halfstep/apex/options.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"

#include <cmath>
#include <utility>

namespace halfstep::apex {

namespace {

constexpr const char* kOptionsWhere = "apex::AmpOptions";

std::string level_name(OptLevel level) {
  return "O" + std::to_string(static_cast<int>(level));
}

std::string dtype_or_none(std::optional<c10::ScalarType> dtype) {
  return dtype ? dtype_name(*dtype) : "none";
}

std::string word(std::optional<bool> value) {
  return !value ? "none" : *value ? "true" : "false";
}

}  // namespace

OptLevel parse_opt_level(std::string_view name) {
  for (const auto level : {OptLevel::O0, OptLevel::O1, OptLevel::O2, OptLevel::O3}) {
    if (name == level_name(level)) return level;
  }
  halfstep::detail::raise<UsageError>("apex::parse_opt_level",
                                      "a level must be O0, O1, O2 or O3, but got '", name,
                                      "'; it is the letter O, not the number zero");
}

Properties properties_of(OptLevel level, c10::ScalarType half_dtype) {
  switch (level) {
    case OptLevel::O0:
      return {level, c10::kFloat, false, std::nullopt, false, 1.0};
    case OptLevel::O1:
      return {level, std::nullopt, true, std::nullopt, std::nullopt, std::nullopt};
    case OptLevel::O2:
      return {level, half_dtype, false, true, true, std::nullopt};
    case OptLevel::O3:
      return {level, half_dtype, false, false, false, 1.0};
  }
  halfstep::detail::raise<UsageError>("apex::properties_of",
                                      "a level must be O0, O1, O2 or O3, but got ",
                                      static_cast<int>(level), "; use one of OptLevel");
}

std::string to_string(const Properties& properties) {
  std::string text;
  const auto line = [&](std::string name, const std::string& value) {
    name.resize(22, ' ');
    text += name + " : " + value + "\n";
  };
  line("opt_level", level_name(properties.opt_level));
  line("cast_model_type", dtype_or_none(properties.cast_model_type));
  line("patch_torch_functions", word(properties.patch_torch_functions));
  line("keep_batchnorm_fp32", word(properties.keep_batchnorm_fp32));
  line("master_weights", word(properties.master_weights));
  line("loss_scale", properties.loss_scale ? c10::str(*properties.loss_scale) : "dynamic");
  return text;
}

AmpOptions& AmpOptions::enabled(bool value) {
  enabled_ = value;
  return *this;
}

AmpOptions& AmpOptions::half_dtype(c10::ScalarType value) {
  half_dtype_ = value;
  return *this;
}

AmpOptions& AmpOptions::cast_model_type(std::optional<c10::ScalarType> value) {
  cast_model_type_ = value;
  return *this;
}

AmpOptions& AmpOptions::patch_torch_functions(bool value) {
  patch_torch_functions_ = value;
  return *this;
}

AmpOptions& AmpOptions::keep_batchnorm_fp32(bool value) {
  keep_batchnorm_fp32_ = value;
  return *this;
}

AmpOptions& AmpOptions::master_weights(bool value) {
  master_weights_ = value;
  return *this;
}

AmpOptions& AmpOptions::loss_scale(double value) {
  loss_scale_ = value;
  return *this;
}

AmpOptions& AmpOptions::dynamic_loss_scale() {
  loss_scale_ = std::optional<double>();
  return *this;
}

AmpOptions& AmpOptions::cast_model_outputs(c10::ScalarType value) {
  cast_model_outputs_ = value;
  return *this;
}

AmpOptions& AmpOptions::num_losses(int64_t value) {
  num_losses_ = value;
  return *this;
}

AmpOptions& AmpOptions::min_loss_scale(double value) {
  min_loss_scale_ = value;
  return *this;
}

AmpOptions& AmpOptions::max_loss_scale(double value) {
  max_loss_scale_ = value;
  return *this;
}

AmpOptions& AmpOptions::allow_incoming_model_not_fp32(bool value) {
  allow_incoming_ = value;
  return *this;
}

Properties AmpOptions::properties() const {
  auto properties = properties_of(level_, half_dtype_);
  const bool is_o1 = level_ == OptLevel::O1;
  HALFSTEP_CHECK_USAGE(is_low_precision(half_dtype_), kOptionsWhere,
                       "half_dtype must be float16 or bfloat16, but got ", dtype_name(half_dtype_),
                       "; use OptLevel::O0 for float32");
  if (cast_model_type_) properties.cast_model_type = *cast_model_type_;
  HALFSTEP_CHECK_USAGE(
      !is_o1 || properties.cast_model_type.value_or(c10::kFloat) == c10::kFloat, kOptionsWhere,
      "cast_model_type must be none or float32 with O1, which casts inside the model's functions "
      "and keeps its weights in float32, but got ",
      dtype_or_none(properties.cast_model_type), "; use O2 or O3");
  HALFSTEP_CHECK_USAGE(c10::isFloatingType(properties.cast_model_type.value_or(c10::kFloat)),
                       kOptionsWhere, "cast_model_type must be a floating-point type, but got ",
                       dtype_or_none(properties.cast_model_type), "; use float16 or bfloat16");
  if (patch_torch_functions_) properties.patch_torch_functions = *patch_torch_functions_;
  HALFSTEP_CHECK_USAGE(is_o1 || !properties.patch_torch_functions, kOptionsWhere,
                       "patch_torch_functions must be false without O1, but got true with ",
                       level_name(level_), "; choose O1");
  HALFSTEP_CHECK_USAGE(
      !is_o1 || !keep_batchnorm_fp32_, kOptionsWhere,
      "keep_batchnorm_fp32 must not be set with O1, whose weights are float32, but "
      "got ",
      word(keep_batchnorm_fp32_), "; leave it out, or use O2 or O3");
  if (keep_batchnorm_fp32_) properties.keep_batchnorm_fp32 = keep_batchnorm_fp32_;
  HALFSTEP_CHECK_USAGE(
      !is_o1 || !master_weights_, kOptionsWhere,
      "master_weights must not be set with O1, whose weights are float32, but got ",
      word(master_weights_), "; leave it out, or use O2");
  if (master_weights_) properties.master_weights = master_weights_;
  if (loss_scale_) properties.loss_scale = *loss_scale_;
  const double scale = properties.loss_scale.value_or(1);
  HALFSTEP_CHECK_USAGE(scale > 0 && std::isfinite(scale), kOptionsWhere,
                       "loss_scale must be above 0 and finite, but got ", scale,
                       "; use 128, or dynamic_loss_scale()");
  HALFSTEP_CHECK_USAGE(num_losses_ >= 1, kOptionsWhere, "num_losses must be at least 1, but got ",
                       num_losses_, "; one scale serves all losses");
  return properties;
}

}  // namespace halfstep::apex
