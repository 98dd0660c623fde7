#include "halfstep/autocast/cast_rule.h"

#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"

#include <ostream>

namespace halfstep {

const std::vector<CastRule>& cast_rules() {
  static const std::vector<CastRule> rules{CastRule::lower_precision,
                                           CastRule::float32,
                                           CastRule::float32_set_dtype,
                                           CastRule::float32_append_dtype,
                                           CastRule::promote,
                                           CastRule::promote_or_lower,
                                           CastRule::banned,
                                           CastRule::keep};
  return rules;
}

std::string cast_rule_name(CastRule rule) {
  switch (rule) {
    case CastRule::lower_precision:
      return "lower_precision";
    case CastRule::float32:
      return "float32";
    case CastRule::float32_set_dtype:
      return "float32_set_dtype";
    case CastRule::float32_append_dtype:
      return "float32_append_dtype";
    case CastRule::promote:
      return "promote";
    case CastRule::promote_or_lower:
      return "promote_or_lower";
    case CastRule::banned:
      return "banned";
    case CastRule::keep:
      return "keep";
  }
  detail::raise<UsageError>("CastRule", "a rule must be one of the enumeration, but got ",
                            static_cast<int>(rule), "; use CastRule::float32 or its like");
}

CastRule parse_cast_rule(std::string_view name) {
  std::vector<std::string> names;
  for (const auto rule : cast_rules()) {
    names.push_back(cast_rule_name(rule));
    if (names.back() == name) return rule;
  }
  std::string list;
  for (const auto& known : names) list += (list.empty() ? "" : ", ") + known;
  const auto hint = suggest(name, names);
  detail::raise<UsageError>("CastRule", "a rule must be one of ", list, ", but got '", name, "'; ",
                            hint.empty() ? "use one of them" : hint);
}

std::ostream& operator<<(std::ostream& stream, CastRule rule) {
  return stream << cast_rule_name(rule);
}

}  // namespace halfstep
