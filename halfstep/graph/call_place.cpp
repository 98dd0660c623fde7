#include "halfstep/graph/call_place.h"

#include "halfstep/autocast/module_scope.h"
#include "halfstep/autocast/shadow_weights.h"

#include <algorithm>

#include <torch/csrc/autograd/graph_task.h>
#include <torch/nn/module.h>

namespace halfstep::detail {

CallPlaces::CallPlaces(const torch::nn::Module& root) : tree_(root), weights_(root.parameters()) {}

std::string CallPlaces::of_next(const Program& so_far,
                                const std::vector<at::Tensor>& operands) const {
  for (const auto& operand : operands) {
    if (const auto module = owner(operand)) return " in " + name(*module);
  }
  // Before the scope, which backward() carries along from where it was called.
  if (torch::autograd::get_current_graph_task_id() >= 0) return " in backward()";
  if (const auto* scope = ModuleScopeState::current()) return in_scope(*scope);
  return after_last_used(so_far, so_far.code.size());
}

std::string CallPlaces::of(const Program& program, size_t call) const {
  const auto& instruction = program.code[call];
  if (const auto module = owner_of_operands(program, instruction)) return " in " + name(*module);
  return instruction.backward ? " in backward()" : after_last_used(program, call);
}

std::optional<size_t> CallPlaces::owner(const at::Tensor& tensor) const {
  const auto& owners = tree_.owners(tensor);
  if (!owners.empty()) return owners.front();
  const auto weight = std::find_if(weights_.begin(), weights_.end(), [&](const at::Tensor& one) {
    return tensor.is_same(shadow_of(one));
  });
  return weight == weights_.end() ? std::nullopt : std::optional(tree_.owners(*weight).front());
}

std::optional<size_t> CallPlaces::owner_of_operands(const Program& program,
                                                    const Instruction& call) const {
  for (const auto& operand : call.operands) {
    const auto& value = program.value(operand.value);
    if (value.kind != ValueKind::external) continue;
    if (const auto module = owner(value.tensor)) return module;
  }
  return std::nullopt;
}

std::string CallPlaces::name(size_t module) const {
  return module == 0 ? "the graph's own code" : "module \"" + tree_.paths()[module] + "\"";
}

std::string CallPlaces::in_scope(const ModuleScopeState& scope) const {
  const auto module = scope.module == nullptr ? tree_.find(scope.path) : tree_.find(scope);
  if (module) return " in " + name(*module);
  return scope.path.empty() ? " in the ModuleScope of a module that the graph does not know"
                            : " in ModuleScope \"" + scope.path + "\"";
}

std::string CallPlaces::after_last_used(const Program& program, size_t end) const {
  for (size_t i = end; i-- > 0;) {
    if (program.code[i].backward) continue;
    if (const auto module = owner_of_operands(program, program.code[i]))
      return " after " + name(*module);
  }
  return "";
}

}  // namespace halfstep::detail
