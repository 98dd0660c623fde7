#include "halfstep/precision/policy_names.h"

#include "halfstep/core/error.h"

#include <array>
#include <optional>
#include <utility>

#include <c10/core/DefaultDtype.h>

namespace halfstep {

namespace {

template <class Value, std::size_t size>
using Names = std::array<std::pair<std::string_view, Value>, size>;

template <class Value, std::size_t size>
std::optional<Value> look_up(const Names<Value, size>& names, std::string_view name) {
  for (const auto& [known, value] : names) {
    if (known == name) return value;
  }
  return std::nullopt;
}

// The first name of a dtype is the one jmp prints.
constexpr Names<c10::ScalarType, 10> kJmpDtypes{{{"full", c10::kFloat},
                                                 {"f32", c10::kFloat},
                                                 {"float32", c10::kFloat},
                                                 {"f16", c10::kHalf},
                                                 {"half", c10::kHalf},
                                                 {"float16", c10::kHalf},
                                                 {"bf16", c10::kBFloat16},
                                                 {"bfloat16", c10::kBFloat16},
                                                 {"f64", c10::kDouble},
                                                 {"float64", c10::kDouble}}};

enum Part : std::size_t { params, compute, output };
constexpr Names<Part, 6> kJmpKeys{{{"params", params},
                                   {"p", params},
                                   {"compute", compute},
                                   {"c", compute},
                                   {"output", output},
                                   {"o", output}}};

struct FabricPrecision {
  c10::ScalarType param, compute;
};
constexpr Names<FabricPrecision, 10> kFabric{{{"16-mixed", {c10::kFloat, c10::kHalf}},
                                              {"bf16-mixed", {c10::kFloat, c10::kBFloat16}},
                                              {"16-true", {c10::kHalf, c10::kHalf}},
                                              {"bf16-true", {c10::kBFloat16, c10::kBFloat16}},
                                              {"32-true", {c10::kFloat, c10::kFloat}},
                                              {"64-true", {c10::kDouble, c10::kDouble}},
                                              {"16", {c10::kFloat, c10::kHalf}},
                                              {"bf16", {c10::kFloat, c10::kBFloat16}},
                                              {"32", {c10::kFloat, c10::kFloat}},
                                              {"64", {c10::kDouble, c10::kDouble}}}};

constexpr const char* kGetPolicy = "get_policy";

c10::ScalarType jmp_dtype(std::string_view name, std::string_view text) {
  const auto dtype = look_up(kJmpDtypes, name);
  HALFSTEP_CHECK_USAGE(dtype, kGetPolicy,
                       "a dtype must be full, half, f32, f16, bf16, f64, float32, float16, "
                       "bfloat16 or float64, but got '",
                       name, "'; ", detail::advice_for_policy(text, detail::Vocabulary::jmp));
  return *dtype;
}

bool is_jmp(std::string_view text) {
  return text.find('=') != std::string_view::npos || look_up(kJmpDtypes, text);
}

}  // namespace

DtypePolicy get_policy(std::string_view text) {
  if (text.find('=') == std::string_view::npos) {
    const auto dtype = jmp_dtype(text, text);
    return {dtype, dtype, dtype};
  }
  std::array<std::optional<c10::ScalarType>, 3> dtypes;
  for (std::size_t start = 0; start <= text.size();) {
    const auto part = text.substr(start, text.find(',', start) - start);
    start += part.size() + 1;
    const auto equals = part.find('=');
    const auto name = part.substr(0, equals);
    const auto key = equals == std::string_view::npos ? std::nullopt : look_up(kJmpKeys, name);
    HALFSTEP_CHECK_USAGE(key, kGetPolicy, "a key must be params, compute or output, but got '",
                         name, "' in '", text,
                         "'; write for example params=float32,compute=float16,output=float32");
    HALFSTEP_CHECK_USAGE(!dtypes[*key], kGetPolicy, "a key must be given once, but got '", name,
                         "' again in '", text, "'; leave one out");
    dtypes[*key] = jmp_dtype(part.substr(equals + 1), text);
  }
  const auto param = dtypes[Part::params].value_or(c10::kFloat);
  const auto computed = dtypes[Part::compute].value_or(param);
  return {param, computed, dtypes[Part::output].value_or(computed)};
}

DtypePolicy fabric_policy(std::string_view precision) {
  const auto known = look_up(kFabric, precision);
  HALFSTEP_CHECK_USAGE(known, "fabric_policy",
                       "precision must be 16-mixed, bf16-mixed, 16-true, bf16-true, 32-true or "
                       "64-true, but got '",
                       precision, "'; ",
                       detail::advice_for_policy(precision, detail::Vocabulary::fabric));
  return {known->param, known->compute, c10::get_default_dtype_as_scalartype()};
}

namespace detail {

std::string jmp_name(c10::ScalarType dtype) {
  for (const auto& [name, known] : kJmpDtypes) {
    if (known == dtype) return std::string(name);
  }
  raise<UsageError>("DtypePolicy", "a dtype must have a name, but ", c10::toString(dtype),
                    " has none; use a floating-point dtype");
}

std::string advice_for_policy(std::string_view text, Vocabulary taken_for) {
  const std::string quoted = "(\"" + std::string(text) + "\")";
  if (taken_for != Vocabulary::keras && text.starts_with("mixed_"))
    return "Keras's policies are DtypePolicy" + quoted;
  if (taken_for != Vocabulary::fabric && look_up(kFabric, text))
    return "Lightning Fabric's names are fabric_policy" + quoted;
  if (taken_for != Vocabulary::jmp && is_jmp(text)) return "jmp's words are get_policy" + quoted;
  if (text.starts_with("transformer-engine")) return "Transformer Engine has no counterpart here";
  return "use one of these";
}

}  // namespace detail

}  // namespace halfstep
