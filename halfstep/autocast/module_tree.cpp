#include "halfstep/autocast/module_tree.h"

#include "halfstep/autocast/module_scope.h"
#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"

#include <torch/nn/module.h>

namespace halfstep::detail {

namespace {

const std::vector<size_t> nobody;

}  // namespace

ModuleTree::ModuleTree(const torch::nn::Module& root) {
  add(root, "");
  children_.emplace_back();
  for (const auto& item : root.named_modules("", /*include_self=*/false)) {
    add(*item.value(), item.key());
    children_.emplace_back(item.value());
  }
  for (const auto& [tensor, owned] : by_tensor_) {
    if (!tensor->has_storage()) continue;
    const auto& storage = tensor->storage();
    const auto [stored, is_new] = by_storage_.try_emplace(
        storage.unsafeGetStorageImpl(), Stored{storage.getWeakStorageImpl(), owned.owners});
    // Memory that parameters of several modules lie in tells nothing of a view.
    if (!is_new && stored->second.owners != owned.owners) stored->second.owners.clear();
  }
}

void ModuleTree::add(const torch::nn::Module& module, const std::string& path) {
  const auto index = paths_.size();
  paths_.push_back(path);
  by_path_.emplace(path, index);
  by_module_.emplace(&module, index);
  const auto own = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    const c10::weak_intrusive_ptr<c10::TensorImpl> alive(tensor.getIntrusivePtr());
    by_tensor_.try_emplace(tensor.unsafeGetTensorImpl(), Owned{alive, {}})
        .first->second.owners.push_back(index);
  };
  for (const auto& item : module.named_parameters(/*recurse=*/false)) own(item.value());
  for (const auto& item : module.named_buffers(/*recurse=*/false)) own(item.value());
}

std::optional<size_t> ModuleTree::find(const std::string& path) const {
  const auto found = by_path_.find(path);
  return found == by_path_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<size_t> ModuleTree::find(const ModuleScopeState& scope) const {
  if (scope.module == nullptr) {
    const auto found = find(scope.path);
    if (found) return found;
    const auto hint = suggest(scope.path, paths_);
    raise<UsageError>("ModuleScope", "a path must be one of the module tree's, but got '",
                      scope.path, "'; ", hint.empty() ? "see named_modules() for them" : hint);
  }
  const auto found = by_module_.find(scope.module);
  if (found == by_module_.end()) return std::nullopt;
  // Another module may have the address of one that is gone.
  if (found->second != 0 && children_[found->second].expired()) return std::nullopt;
  return found->second;
}

const std::vector<size_t>& ModuleTree::owners(const at::TensorBase& tensor) const {
  if (!tensor.defined()) return nobody;
  const auto of = [this](const at::TensorBase& one) {
    const auto found = by_tensor_.find(one.unsafeGetTensorImpl());
    return found == by_tensor_.end() ? nullptr : &found->second.owners;
  };
  if (const auto* owners = of(tensor)) return *owners;
  if (!tensor.has_storage()) return nobody;
  const auto found = by_storage_.find(tensor.storage().unsafeGetStorageImpl());
  if (found != by_storage_.end()) return found->second.owners;
  // A parameter that was given other memory since (`set_data`) is known by itself alone.
  if (!tensor.is_inference() && tensor.is_view()) {
    if (const auto* owners = of(tensor._base())) return *owners;
  }
  return nobody;
}

std::vector<std::vector<size_t>> ModuleTree::tied() const {
  std::vector<std::vector<size_t>> tied;
  for (const auto& [tensor, owned] : by_tensor_) {
    if (owned.owners.size() > 1) tied.push_back(owned.owners);
  }
  return tied;
}

bool ModuleTree::is_inside(size_t module, size_t above) const {
  const auto& path = paths_[module];
  const auto& start = paths_[above];
  return start.empty() ||
         (path.starts_with(start) && (path.size() == start.size() || path[start.size()] == '.'));
}

}  // namespace halfstep::detail
