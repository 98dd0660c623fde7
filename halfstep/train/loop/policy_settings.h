#pragma once
#include "halfstep/autocast/op_policy.h"
#include "halfstep/train/config/config.h"

#include <optional>
#include <string>

namespace halfstep::train {

/// What `optim_wrapper.autocast` says; none where it is missing.
///
///   autocast: {policy: torch, ops: {softmax: float32, linear: float32, exp: none}}
///
/// `policy` is one of OpPolicy::preset's names (default: torch), `ops` are rules by the names
/// OpPolicy::set takes, applied in the order written; `none` takes a rule away. Throws UsageError
/// with the place in the file for a preset, an op or a rule that is none.
std::optional<OpPolicy> read_policy(Config& optim_wrapper, c10::DeviceType device_type);

/// The policy as YAML that read_policy reads back to the same rules: what stands after "autocast:
/// ". Rules that depend on calls (by module) have no name and are left out.
std::string policy_to_yaml(const OpPolicy& policy);

}  // namespace halfstep::train
