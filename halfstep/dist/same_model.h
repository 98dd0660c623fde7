#pragma once
#include "halfstep/dist/process_group.h"

#include <string>

#include <ATen/core/Tensor.h>
#include <torch/ordered_dict.h>

namespace halfstep::dist {

/// Parameters or buffers by name, as torch::nn::Module gives them.
using NamedTensors = torch::OrderedDict<std::string, at::Tensor>;

/// Throws UsageError, on all ranks alike, unless all have the same names with the same shapes and
/// dtypes in the same order; the message names the first that differs. `what` is "the parameters".
void check_same_form(ProcessGroup& group, const NamedTensors& tensors, const std::string& what);

/// The same for the elements, to the bit: compares a 64-bit sum of each tensor. Waits for the
/// device; reads each tensor once.
///
///   check_same_values(group, net->named_parameters(), "the weights");  // has any rank drifted?
void check_same_values(ProcessGroup& group, const NamedTensors& tensors, const std::string& what);

/// Gives every rank the root's elements. All must have the same form (check_same_form).
void broadcast_all_(ProcessGroup& group, const NamedTensors& tensors, int root = 0);

}  // namespace halfstep::dist
