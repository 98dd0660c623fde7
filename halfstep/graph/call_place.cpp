#include "halfstep/graph/call_place.h"

#include "halfstep/autocast/module_scope.h"
#include "halfstep/autocast/module_tree.h"
#include "halfstep/autocast/shadow_weights.h"

#include <algorithm>
#include <optional>

#include <torch/csrc/autograd/graph_task.h>
#include <torch/nn/module.h>

namespace halfstep::detail {

namespace {

class Owners {
 public:
  explicit Owners(const torch::nn::Module& root) : tree_(root), weights_(root.parameters()) {}

  std::optional<size_t> of(const at::Tensor& tensor) const {
    const auto& owners = tree_.owners(tensor);
    if (!owners.empty()) return owners.front();
    const auto weight = std::find_if(weights_.begin(), weights_.end(), [&](const at::Tensor& one) {
      return tensor.is_same(shadow_of(one));
    });
    return weight == weights_.end() ? std::nullopt : std::optional(tree_.owners(*weight).front());
  }

  std::optional<size_t> of(const ModuleScopeState& scope) const {
    return scope.module == nullptr ? tree_.find(scope.path) : tree_.find(scope);
  }

  std::string name(size_t module) const {
    return module == 0 ? "the graph's own code" : "module \"" + tree_.paths()[module] + "\"";
  }

 private:
  ModuleTree tree_;
  std::vector<at::Tensor> weights_;
};

std::optional<size_t> owner_of_operands(const Owners& owners, const Program& program,
                                        const Instruction& instruction) {
  for (const auto& operand : instruction.operands) {
    const auto& value = program.value(operand.value);
    if (value.kind != ValueKind::external) continue;
    if (const auto owner = owners.of(value.tensor)) return owner;
  }
  return std::nullopt;
}

/// After what the forward pass used last before call `end`.
std::string after_last_used(const Owners& owners, const Program& program, size_t end) {
  for (size_t i = end; i-- > 0;) {
    if (program.code[i].backward) continue;
    if (const auto owner = owner_of_operands(owners, program, program.code[i]))
      return " after " + owners.name(*owner);
  }
  return "";
}

}  // namespace

std::string place_of_call(const torch::nn::Module& root, const Program& so_far,
                          const std::vector<at::Tensor>& operands) {
  const Owners owners(root);
  for (const auto& operand : operands) {
    if (const auto owner = owners.of(operand)) return " in " + owners.name(*owner);
  }
  if (const auto* scope = ModuleScopeState::current()) {
    if (const auto module = owners.of(*scope)) return " in " + owners.name(*module);
    return scope->path.empty() ? " in the ModuleScope of a module that the graph does not know"
                               : " in module \"" + scope->path + "\"";
  }
  if (torch::autograd::get_current_graph_task_id() >= 0) return " in backward()";
  return after_last_used(owners, so_far, so_far.code.size());
}

std::string place_in_program(const torch::nn::Module& root, const Program& program, size_t call) {
  const Owners owners(root);
  const auto& instruction = program.code[call];
  if (const auto owner = owner_of_operands(owners, program, instruction))
    return " in " + owners.name(*owner);
  return instruction.backward ? " in backward()" : after_last_used(owners, program, call);
}

}  // namespace halfstep::detail
