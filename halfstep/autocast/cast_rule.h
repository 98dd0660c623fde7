#pragma once
#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

namespace halfstep {

/// What autocast does with a call of an op. Only floating-point inputs of the region's device are
/// cast, and float64 never is.
///
/// The names are PyTorch's (at::autocast::CastPolicy) spelled out; promote_or_lower and keep are
/// ours. While an op with a rule runs, autocast is off inside, so the ops it is made of follow no
/// rule of their own.
enum class CastRule : uint8_t {
  /// Inputs are cast to the region's 16-bit dtype.
  lower_precision,
  /// Inputs are cast to float32.
  float32,
  /// Inputs stay; a missing dtype argument becomes float32 (`sum`, `softmax`): the same result
  /// without a cast copy of the input.
  float32_set_dtype,
  /// Inputs stay; the overload with a dtype argument is called with float32 (`norm`).
  float32_append_dtype,
  /// Inputs are cast to the widest type among them and the region's dtype: float32 if any is.
  promote,
  /// As promote, but where all inputs are float32 they are cast to 16 bits: what MMCV does.
  promote_or_lower,
  /// The call throws.
  banned,
  /// Inputs stay as they are.
  keep,
};

/// Every rule, in the order above.
const std::vector<CastRule>& cast_rules();

/// "lower_precision", "float32", …: as in the enumeration.
std::string cast_rule_name(CastRule rule);

/// The rule of a name. Throws UsageError that lists the names for any other text.
CastRule parse_cast_rule(std::string_view name);

/// Writes the name.
std::ostream& operator<<(std::ostream& stream, CastRule rule);

}  // namespace halfstep
