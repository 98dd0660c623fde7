#pragma once
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/TensorBase.h>
#include <c10/core/StorageImpl.h>

namespace torch::nn {
class Module;
}

namespace halfstep::detail {

struct ModuleScopeState;

/// The modules of a tree by path, and which of them a tensor belongs to. Taken once: modules and
/// parameters registered later are unknown. Keeps neither alive. Never changes: safe from any
/// thread.
class ModuleTree {
 public:
  explicit ModuleTree(const torch::nn::Module& root);

  /// "" (the root), "encoder", "encoder.0", …: as in torch::nn::Module::named_modules.
  const std::vector<std::string>& paths() const { return paths_; }

  std::optional<size_t> find(const std::string& path) const;

  /// The module a scope names. None for a module of another tree; throws UsageError with the
  /// nearest path for a path that is none of this tree's.
  std::optional<size_t> find(const ModuleScopeState& scope) const;

  /// The modules that have the tensor, or what it is a view of, as a parameter or buffer (several
  /// where weights are tied), in the tree's order; empty for other tensors. A tensor counts as a
  /// view where it shares its memory with one parameter, so also as autograd saves it for backward.
  const std::vector<size_t>& owners(const at::TensorBase& tensor) const;

  /// The owners of each tied weight.
  std::vector<std::vector<size_t>> tied() const;

  /// Whether `module` is `above` or below it.
  bool is_inside(size_t module, size_t above) const;

 private:
  void add(const torch::nn::Module& module, const std::string& path);

  struct Stored {
    c10::weak_intrusive_ptr<c10::StorageImpl> alive;  // keeps the address from being used again
    std::vector<size_t> owners;
  };
  struct Owned {
    c10::weak_intrusive_ptr<c10::TensorImpl> alive;
    std::vector<size_t> owners;
  };
  std::vector<std::string> paths_;
  std::unordered_map<std::string, size_t> by_path_;
  std::unordered_map<const torch::nn::Module*, size_t> by_module_;
  std::vector<std::weak_ptr<const torch::nn::Module>> children_;  // by index, the root's unset
  std::unordered_map<const c10::TensorImpl*, Owned> by_tensor_;
  std::unordered_map<const c10::StorageImpl*, Stored> by_storage_;
};

}  // namespace halfstep::detail
