#include "halfstep/core/dtype.h"

#include "halfstep/core/error.h"

#include <array>
#include <utility>

namespace halfstep {

bool is_low_precision(c10::ScalarType dtype) {
  return dtype == c10::kHalf || dtype == c10::kBFloat16;
}

std::string dtype_name(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::kFloat:
      return "float32";
    case c10::kDouble:
      return "float64";
    case c10::kHalf:
      return "float16";
    case c10::kBFloat16:
      return "bfloat16";
    case c10::kByte:
      return "uint8";
    case c10::kChar:
      return "int8";
    case c10::kShort:
      return "int16";
    case c10::kInt:
      return "int32";
    case c10::kLong:
      return "int64";
    case c10::kBool:
      return "bool";
    default:
      return c10::toString(dtype);
  }
}

c10::ScalarType parse_dtype(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, c10::ScalarType>, 11> names{{
      {"float32", c10::kFloat},
      {"fp32", c10::kFloat},
      {"float", c10::kFloat},
      {"float16", c10::kHalf},
      {"fp16", c10::kHalf},
      {"half", c10::kHalf},
      {"bfloat16", c10::kBFloat16},
      {"bf16", c10::kBFloat16},
      {"float64", c10::kDouble},
      {"fp64", c10::kDouble},
      {"double", c10::kDouble},
  }};
  for (const auto& [known, dtype] : names) {
    if (known == name) return dtype;
  }
  detail::raise<UsageError>("parse_dtype",
                            "a dtype must be float32, float16, bfloat16 or float64, but got '",
                            name, "'; use one of these or a short name: fp32, fp16, bf16, fp64");
}

}  // namespace halfstep
