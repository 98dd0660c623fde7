#include "halfstep/graph/graph_config.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/graph/passes/pass.h"

#include <utility>

namespace halfstep {

GraphConfig& GraphConfig::enable_amp(bool enabled, std::optional<c10::ScalarType> dtype) {
  HALFSTEP_CHECK_USAGE(!dtype || *dtype == c10::kHalf || *dtype == c10::kBFloat16, "GraphConfig",
                       "the dtype of enable_amp must be float16 or bfloat16, but got ",
                       dtype_name(*dtype), "; use torch::kBFloat16");
  amp_ = enabled;
  dtype_ = dtype;
  ++version_;
  return *this;
}

GraphConfig& GraphConfig::policy(std::optional<OpPolicy> value) {
  policy_ = std::move(value);
  ++version_;
  return *this;
}

GraphConfig& GraphConfig::plan_precision(bool enabled) {
  plan_precision_ = enabled;
  ++version_;
  return *this;
}

GraphConfig& GraphConfig::set_precision_plan(std::optional<PrecisionPlan> plan) {
  plan_ = std::move(plan);
  ++version_;
  return *this;
}

GraphConfig& GraphConfig::set_gradient_accumulation_steps(int64_t steps) {
  HALFSTEP_CHECK_USAGE(steps >= 1, "GraphConfig",
                       "gradient accumulation steps must be at least 1, but got ", steps,
                       "; use 1 for no accumulation");
  accumulation_steps_ = steps;
  ++version_;
  return *this;
}

GraphConfig& GraphConfig::set_max_recordings(int64_t count) {
  HALFSTEP_CHECK_USAGE(count >= 1, "GraphConfig", "max_recordings must be at least 1, but got ",
                       count, "; use 1 for a graph whose inputs never change their shapes");
  max_recordings_ = count;
  ++version_;
  return *this;
}

GraphConfig& GraphConfig::check_replays(bool enabled) {
  check_ = enabled;
  ++version_;
  return *this;
}

GraphConfig& GraphConfig::enable_pass(const std::string& name, bool enabled) {
  auto known = c10::str(kPlanMemory, ", ", kCudaGraph);
  bool found = name == kPlanMemory || name == kCudaGraph;
  for (const auto& pass : detail::passes()) {
    found = found || name == pass.name;
    known += ", " + std::string(pass.name);
  }
  HALFSTEP_CHECK_USAGE(found, "GraphConfig", "a pass must be one of ", known, ", but got \"", name,
                       "\"; use one of these");
  passes_[name] = enabled;
  ++version_;
  return *this;
}

bool GraphConfig::pass_enabled(const std::string& name) const {
  const auto chosen = passes_.find(name);
  if (chosen != passes_.end()) return chosen->second;
  for (const auto& pass : detail::passes()) {
    if (name == pass.name) return pass.by_default;
  }
  return true;
}

}  // namespace halfstep
