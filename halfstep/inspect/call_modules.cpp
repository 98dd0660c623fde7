#include "halfstep/inspect/call_modules.h"

#include "halfstep/autocast/module_scope.h"
#include "halfstep/inspect/call_values.h"

namespace halfstep::inspect::detail {

CallModules::CallModules(const torch::nn::Module* root) {
  if (root != nullptr) tree_.emplace(*root);
}

std::string CallModules::module_of(const OpFrame& frame, c10::ArrayRef<c10::IValue> values) const {
  const auto* scope = halfstep::detail::ModuleScopeState::current();
  std::optional<size_t> scope_module;
  if (scope != nullptr && tree_)
    scope_module = scope->module != nullptr ? tree_->find(*scope) : tree_->find(scope->path);
  std::optional<size_t> owner;
  if (tree_) {
    for_each_tensor(values, [&](const at::Tensor& tensor) {
      for (const auto module : tree_->owners(tensor)) {
        if (!owner && (!scope_module || tree_->is_inside(module, *scope_module))) owner = module;
      }
    });
  }
  if (owner) return path_of(*owner);
  if (frame.caller != nullptr) return frame.caller->module;
  if (scope_module) return path_of(*scope_module);
  return scope == nullptr ? "" : scope->path;
}

}  // namespace halfstep::inspect::detail
