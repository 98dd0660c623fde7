#include "halfstep/graph/out_ops.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

namespace halfstep::detail {

namespace {

using Overloads = std::unordered_map<std::string, std::vector<c10::OperatorHandle>>;

/// All ops that write into their last argument, by name.
const Overloads& out_ops() {
  static const auto* const all = [] {
    auto* overloads = new Overloads;
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const auto& name : dispatcher.getAllOpNames()) {
      const auto op = dispatcher.findSchema(name);
      if (!op || op->schema().arguments().empty() || !op->schema().arguments().back().is_out() ||
          !op->hasKernelForDispatchKey(c10::DispatchKey::CPU))
        continue;
      (*overloads)[name.name].push_back(*op);
    }
    return overloads;
  }();
  return *all;
}

/// Whether `out` has the arguments of `op`, and then one to write into for each of its results.
bool fits(const c10::FunctionSchema& op, const c10::FunctionSchema& out) {
  const auto& arguments = op.arguments();
  const auto& with_out = out.arguments();
  if (with_out.size() != arguments.size() + op.returns().size()) return false;
  return std::equal(arguments.begin(), arguments.end(), with_out.begin(),
                    [](const c10::Argument& a, const c10::Argument& b) {
                      return a.name() == b.name() && *a.type() == *b.type();
                    }) &&
         std::all_of(with_out.begin() + std::ptrdiff_t(arguments.size()), with_out.end(),
                     [](const c10::Argument& argument) { return argument.is_out(); });
}

}  // namespace

std::optional<c10::OperatorHandle> out_op_of(const c10::OperatorHandle& op) {
  if (!op.hasKernelForDispatchKey(c10::DispatchKey::CPU)) return std::nullopt;
  const auto found = out_ops().find(op.schema().name());
  if (found == out_ops().end()) return std::nullopt;
  for (const auto& out : found->second) {
    if (fits(op.schema(), out.schema())) return out;
  }
  return std::nullopt;
}

std::optional<Instruction::Placed> placed_call(const c10::OperatorHandle& op) {
  static const auto clamp_min =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::clamp_min", "out");
  if (op.operator_name() == c10::OperatorName{"aten::relu", ""})
    return Instruction::Placed{clamp_min, {c10::Scalar(0)}};
  const auto out = out_op_of(op);
  return out ? std::optional(Instruction::Placed{*out, {}}) : std::nullopt;
}

}  // namespace halfstep::detail
