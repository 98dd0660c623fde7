#pragma once
#include "halfstep/autocast/op_policy.h"
#include "halfstep/train/config/config.h"

#include <optional>
#include <string>

namespace torch::nn {
class Module;
}

namespace halfstep::train {

/// What `optim_wrapper.autocast` says; none where it is missing.
///
///   autocast: {policy: torch, ops: {softmax: float32, exp: none}, modules: {"head.*": float32}}
///
/// `policy` is one of OpPolicy::preset's names (default: torch), `ops` are rules by the names
/// OpPolicy::set takes, applied in the order written; `none` takes a rule away. `modules` are rules
/// by the paths and patterns OpPolicy::module takes; bind_policy() makes them the model's. Throws
/// UsageError with the place in the file for a preset, an op, a pattern or a rule that is none.
std::optional<OpPolicy> read_policy(Config& optim_wrapper, c10::DeviceType device_type);

/// Binds the rules by module that were read from `optim_wrapper`, if any. Throws UsageError with
/// the place in the file for one that fits no module of the model, or two that fit the same.
void bind_policy(Config& optim_wrapper, std::optional<OpPolicy>& policy,
                 const torch::nn::Module& model);

/// The policy as YAML that read_policy reads back to the same rules: what stands after "autocast:
/// ". The tree that rules by module are bound to is left out.
std::string policy_to_yaml(const OpPolicy& policy);

}  // namespace halfstep::train
