#pragma once
#include "halfstep/autocast/module_tree.h"
#include "halfstep/inspect/op_observer.h"

#include <optional>
#include <string>

#include <ATen/core/ivalue.h>

namespace halfstep::inspect::detail {

/// Which module an op call belongs to. Never changes: safe from any thread.
class CallModules {
 public:
  /// By the modules of `root` as they are now; null: by ModuleScopes with a path alone.
  explicit CallModules(const torch::nn::Module* root);

  /// The owner of a parameter among the values, inside the scope where there is one; else the
  /// caller's; else the scope's. "." for the root, empty for nobody's.
  std::string module_of(const OpFrame& frame, c10::ArrayRef<c10::IValue> values) const;

  const std::optional<halfstep::detail::ModuleTree>& tree() const { return tree_; }

 private:
  std::string path_of(size_t module) const { return module == 0 ? "." : tree_->paths()[module]; }

  std::optional<halfstep::detail::ModuleTree> tree_;
};

}  // namespace halfstep::inspect::detail
