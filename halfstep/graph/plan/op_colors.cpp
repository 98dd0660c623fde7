#include "halfstep/graph/plan/op_colors.h"

#include "halfstep/autocast/compiled_policy.h"
#include "halfstep/autocast/op_names.h"
#include "halfstep/core/error.h"

#include <string>

namespace halfstep::detail {

namespace {

/// "add.Tensor" of "add_.Tensor"; any other name as it is.
std::string functional_name(const c10::OperatorName& name) {
  auto functional = name;
  auto& base = functional.name;
  if (base.size() > 2 && base.back() == '_' && base[base.size() - 2] != '_') base.pop_back();
  return op_name(functional);
}

OpColor color_of(CastRule rule) {
  switch (rule) {
    case CastRule::lower_precision:
      return OpColor::white;
    case CastRule::promote:
    case CastRule::promote_or_lower:
      return OpColor::gray;
    case CastRule::keep:
      return OpColor::clear;
    default:
      return OpColor::black;
  }
}

}  // namespace

OpColor OpColors::of(const c10::OperatorHandle& op, c10::ArrayRef<c10::IValue> arguments) const {
  auto name = functional_name(op.operator_name());
  // LibTorch's by another kernel.
  if (name == "halfstep::scaled_dot_product_attention") name = "scaled_dot_product_attention";
  const auto rule = policy_.compiled()->rule(op_index(name), op, arguments);
  HALFSTEP_CHECK_USAGE(rule != CastRule::banned, "PrecisionPlan", "the graph's policy bans ", name,
                       ", but build calls it; use another op (for binary_cross_entropy "
                       "binary_cross_entropy_with_logits), or give it another rule");
  if (rule) return color_of(*rule);
  if (name == "halfstep::amp_white_identity") return OpColor::white;
  if (name == "halfstep::amp_black_identity") return OpColor::black;
  return OpColor::unlisted;
}

}  // namespace halfstep::detail
