#pragma once
#include "halfstep/graph/program.h"

#include <string>
#include <vector>

namespace torch::nn {
class Module;
}

namespace halfstep::detail {

/// Where in the modules below `root` a call happens that is about to be recorded, for a message:
/// ` in module "encoder.0"` where a parameter or buffer of it is among its `operands`, or its code
/// runs in the module's ModuleScope; ` in backward()`; ` after module "head"`, whose parameter was
/// the last one used; else nothing.
std::string place_of_call(const torch::nn::Module& root, const Program& so_far,
                          const std::vector<at::Tensor>& operands);

/// The same of a recorded call, but for ModuleScopes, which it does not keep.
std::string place_in_program(const torch::nn::Module& root, const Program& program, size_t call);

}  // namespace halfstep::detail
