#pragma once
#include "halfstep/core/debug_info.h"

#include <memory>
#include <optional>
#include <string>

#include <c10/util/ThreadLocalDebugInfo.h>

namespace torch::nn {
class Module;
}

namespace halfstep {

namespace detail {

/// The module whose code a thread runs: travels in c10::ThreadLocalDebugInfo.
struct ModuleScopeState final : c10::DebugInfoBase, std::enable_shared_from_this<ModuleScopeState> {
  /// The innermost one of the calling thread, or null.
  static const ModuleScopeState* current();

  const torch::nn::Module* module = nullptr;  ///< only compared, never read
  std::string path;                           ///< where `module` is null
  std::shared_ptr<const ModuleScopeState> outer;
};

}  // namespace detail

/// Says, while it lives, which module's code runs. C++ modules have no hooks that could tell. An
/// OpPolicy's rules by module (`policy.module("head.*", …)`) then hold for all ops inside, not only
/// for those that take one of the module's parameters, and an inspect::PrecisionReport names the
/// module beside them.
///
///   torch::Tensor HeadImpl::forward(const torch::Tensor& x) {
///     const halfstep::ModuleScope scope(*this);
///     return torch::softmax(torch::matmul(x, x.t()), 1);  // no parameters here
///   }
///
/// Named by the module itself, or by its path in the tree the policy is bound to. Casts nothing by
/// itself and costs nothing else where there is no such rule and no report. A module of another
/// tree says nothing to a policy; a path that is none of the tree's is an error (UsageError) at the
/// first op inside, in a region with rules by module.
///
/// Nests. A property of the thread: backward() carries it to autograd's threads, and
/// halfstep::propagate to threads of your own. Lives on the thread that made it and ends before
/// what was made before it; else it says so on standard error and ends the program. Never syncs.
class [[nodiscard]] ModuleScope {
 public:
  /// By the module itself, or by its path from the root: "encoder.0".
  explicit ModuleScope(const torch::nn::Module& module);
  explicit ModuleScope(std::string path);
  explicit ModuleScope(const char* path) : ModuleScope(std::string(path)) {}

 private:
  ModuleScope(const torch::nn::Module* module, std::string path);
  detail::DebugInfoEntry entry_;
};

}  // namespace halfstep
