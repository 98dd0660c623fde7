#pragma once
#include "halfstep/graph/program.h"

#include <string>
#include <vector>

#include <ATen/core/Generator.h>

namespace halfstep::detail {

/// Why a program can't be captured on `device` and launched again with the effects of a replay, as
/// a clause of a message; empty where nothing speaks against it. What lies on the host would be
/// captured as it is (but for numbers LibTorch made tensors of, which are the same in each replay),
/// and inputs are copies, which the caller does not see.
std::string why_not_captured(const Program& program, c10::Device device);

/// The random generators its calls name.
std::vector<at::Generator> generators_of(const Program& program);

}  // namespace halfstep::detail
