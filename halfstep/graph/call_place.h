#pragma once
#include "halfstep/autocast/module_tree.h"
#include "halfstep/graph/program.h"

#include <optional>
#include <string>
#include <vector>

namespace halfstep::detail {

struct ModuleScopeState;

/// Where in a tree of modules a call is, for messages. Taken once; keeps no module alive.
class CallPlaces {
 public:
  explicit CallPlaces(const torch::nn::Module& root);

  /// Of a call that is about to be recorded: ` in module "encoder.0"` where a parameter or buffer
  /// of it is among the operands (of a tied one the first owner), ` in backward()`, then by its
  /// ModuleScope, or ` after module "head"`, whose parameter or buffer was the last one used; else
  /// nothing.
  std::string of_next(const Program& so_far, const std::vector<at::Tensor>& operands) const;

  /// The same of a recorded call, but for ModuleScopes, which it does not keep.
  std::string of(const Program& program, size_t call) const;

 private:
  std::optional<size_t> owner(const at::Tensor& tensor) const;
  std::optional<size_t> owner_of_operands(const Program& program, const Instruction& call) const;
  std::string name(size_t module) const;
  std::string in_scope(const ModuleScopeState& scope) const;
  std::string after_last_used(const Program& program, size_t end) const;

  ModuleTree tree_;
  std::vector<at::Tensor> weights_;
};

}  // namespace halfstep::detail
