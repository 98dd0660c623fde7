#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <c10/core/ScalarType.h>

namespace halfstep::apex {

/// Apex's levels: what is in 16 bits, the letter O and a digit. See Properties.
enum class OptLevel : uint8_t { O0, O1, O2, O3 };

/// The level of "O0" to "O3". Throws UsageError for another text, such as "01" with a zero.
OptLevel parse_opt_level(std::string_view name);

/// What a level stands for:
///
///                          O0       O1       O2       O3
///   cast_model_type        float32  none     float16  float16
///   patch_torch_functions  false    true     false    false
///   keep_batchnorm_fp32    none     none     true     false
///   master_weights         false    none     true     false
///   loss_scale             1        dynamic  dynamic  1
struct Properties {
  OptLevel opt_level = OptLevel::O1;
  /// What parameters and inputs are cast to; none: they are left alone.
  std::optional<c10::ScalarType> cast_model_type;
  /// Whether autocast runs around the model.
  bool patch_torch_functions = true;
  std::optional<bool> keep_batchnorm_fp32;
  /// Whether optimizers step float32 copies of 16-bit parameters.
  std::optional<bool> master_weights;
  /// None: dynamic.
  std::optional<double> loss_scale;

  bool operator==(const Properties&) const = default;
};

/// A level's row of the table, in another 16-bit type than float16 where told.
Properties properties_of(OptLevel level, c10::ScalarType half_dtype = c10::ScalarType::Half);

/// One property a line, "cast_model_type        : float16", as Apex prints them.
std::string to_string(const Properties& properties);

/// A level, and overrides of its properties: what is not set keeps the level's value.
///
///   AmpOptions(OptLevel::O2).loss_scale(128).keep_batchnorm_fp32(false)
class AmpOptions {
 public:
  /// Converts implicitly, so that `initialize(net, optimizer, OptLevel::O2)` works.
  AmpOptions(OptLevel level = OptLevel::O1) : level_(level) {}

  /// False: everything passes through. Default: true.
  AmpOptions& enabled(bool value);
  bool enabled() const { return enabled_; }

  /// What the table calls float16: float16, or bfloat16 (Difference from Apex, which knows one).
  AmpOptions& half_dtype(c10::ScalarType value);
  c10::ScalarType half_dtype() const { return half_dtype_; }

  /// Overrides; std::nullopt is "none". With O1 only none and float32 are allowed.
  AmpOptions& cast_model_type(std::optional<c10::ScalarType> value);
  /// May be true with O1 only.
  AmpOptions& patch_torch_functions(bool value);
  /// Not with O1, whose autocast deals with batch norm.
  AmpOptions& keep_batchnorm_fp32(bool value);
  /// Not with O1, whose weights are float32.
  AmpOptions& master_weights(bool value);
  /// A static scale; without overflow checks, as in Apex.
  AmpOptions& loss_scale(double value);
  AmpOptions& dynamic_loss_scale();

  /// The dtype of what `Amp::forward` returns. Default: float32, or as the model gives it where
  /// cast_model_type is none.
  AmpOptions& cast_model_outputs(c10::ScalarType value);
  std::optional<c10::ScalarType> cast_model_outputs() const { return cast_model_outputs_; }

  /// How many losses have a scale of their own. Default: 1.
  AmpOptions& num_losses(int64_t value);
  int64_t num_losses() const { return num_losses_; }

  /// Bounds of dynamic scales. Defaults: 0 (none) and 2^24.
  AmpOptions& min_loss_scale(double value);
  double min_loss_scale() const { return min_loss_scale_; }
  AmpOptions& max_loss_scale(double value);
  double max_loss_scale() const { return max_loss_scale_; }

  /// True: parameters may be in 16 bits already. Default: false, they are an error.
  AmpOptions& allow_incoming_model_not_fp32(bool value);
  bool allow_incoming_model_not_fp32() const { return allow_incoming_; }

  /// The level's properties with the overrides. Throws UsageError where they contradict the level
  /// or are out of range.
  Properties properties() const;

 private:
  OptLevel level_;
  bool enabled_ = true;
  c10::ScalarType half_dtype_ = c10::ScalarType::Half;
  std::optional<std::optional<c10::ScalarType>> cast_model_type_;
  std::optional<bool> patch_torch_functions_, keep_batchnorm_fp32_, master_weights_;
  std::optional<std::optional<double>> loss_scale_;
  std::optional<c10::ScalarType> cast_model_outputs_;
  int64_t num_losses_ = 1;
  double min_loss_scale_ = 0, max_loss_scale_ = 16777216.0;
  bool allow_incoming_ = false;
};

}  // namespace halfstep::apex
