#pragma once
#include "halfstep/autocast/cast_rule.h"

#include <string>

#include <c10/core/DeviceType.h>

namespace halfstep {

/// Tells autocast, in one line, what to do with an op of a library of your own:
///
///   TORCH_LIBRARY(mylib, library) { library.def("gelu_linear(Tensor x, Tensor w) -> Tensor"); }
///   …
///   halfstep::register_autocast("mylib::gelu_linear", CastRule::lower_precision, torch::kCUDA);
///
/// From then on the op follows `rule` in every enabled region of `device_type`, with autocast off
/// for the ops it is made of, and weights' casts kept in the cast cache; a region whose OpPolicy
/// names the op follows the policy instead. Python's counterpart (torch.library.register_autocast)
/// knows one rule, a dtype to cast all inputs to.
///
/// For the life of the process. Without an overload in the name, every overload that takes tensors,
/// writes none of its arguments and can follow the rule gets it. Call it once, after the op is
/// defined and before regions run the op or name it in a policy; not while another thread does.
/// Throws UsageError for an unknown op, an op of LibTorch itself (that is OpPolicy's business), one
/// that has an autocast kernel already, and a rule the op can't follow, as OpPolicy::set does.
void register_autocast(const std::string& op, CastRule rule, c10::DeviceType device_type);

}  // namespace halfstep
