// How a Graph's precision plan is made and followed.
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/graph/graph_base.h"
#include "halfstep/graph/plan/forward_trace.h"
#include "halfstep/graph/plan/planned_run.h"
#include "halfstep/graph/saved_state.h"

#include <utility>

#include <ATen/autocast_mode.h>

namespace halfstep {

namespace {

using Tensors = std::vector<at::Tensor>;

constexpr const char* kKeepTheSame =
    "make what differs the same in each call: keep what changes in tensors, don't ask a tensor for "
    "its dtype, and decide on the host outside of build";
constexpr const char* kOtherPlan =
    "set a plan that was made of this build, or none: config().set_precision_plan(std::nullopt)";

}  // namespace

Tensors GraphBase::run_planned(const detail::Recording& recording, const Tensors& inputs,
                               const Build& build) const {
  if (!recording.plan) return run_build(inputs, build);
  const auto run =
      std::make_shared<detail::PlannedRun>(recording.plan, device_of(inputs).type(),
                                           config_.precision_plan() ? kOtherPlan : kKeepTheSame);
  auto outputs = run_build(inputs, build, run);
  run->finish(outputs);
  return outputs;
}

PrecisionPlan GraphBase::make_plan(const Tensors& inputs, const Build& build) const {
  const auto device_type = device_of(inputs).type();
  const auto trace = std::make_shared<detail::ForwardTrace>(
      config_.policy().value_or(OpPolicy::oneflow_graph()), device_type, *this);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].defined()) trace->add_outside(inputs[i], "input " + std::to_string(i));
  }
  for (const auto& [name, tensor] : known_tensors()) trace->add_outside(tensor, name);
  const auto outputs = run_build(inputs, build, trace);
  for (const auto& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
  const auto dtype = config_.amp_dtype().value_or(at::autocast::get_autocast_dtype(device_type));
  return {trace->take(outputs), dtype};
}

/// A plan is made of a run whose traces are wiped out; and once more where the next run makes other
/// calls, because much is set up in a first run and never again.
Tensors GraphBase::plan_and_record(detail::Recording& recording, const Tensors& inputs,
                                   const Build& build) {
  if (const auto& given = config_.precision_plan()) {
    const auto dtype =
        config_.amp_dtype().value_or(at::autocast::get_autocast_dtype(device_of(inputs).type()));
    HALFSTEP_CHECK_USAGE(given->dtype() == dtype, "Graph",
                         "a precision plan must have the dtype of enable_amp, ", dtype_name(dtype),
                         ", but has ", dtype_name(given->dtype()),
                         "; call enable_amp(true, dtype)");
    recording.plan = std::make_shared<const PrecisionPlan>(*given);
    return record(recording, inputs, build);
  }
  Tensors changed = inputs;
  for (const auto& [name, tensor] : known_tensors()) changed.push_back(tensor);
  detail::SavedState before(std::move(changed));
  for (bool again = false;; again = true) {
    recording.plan = std::make_shared<const PrecisionPlan>(make_plan(inputs, build));
    before.restore();
    if (debug_level_ >= 1) *debug_out_ << recording.plan->to_string();
    try {
      return record(recording, inputs, build);
    } catch (const detail::PlanMismatch&) {
      if (again) throw;
    }
    before.restore();
    for (const auto& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
    if (debug_level_ >= 0) *debug_out_ << "[Graph] plans again: the first run set something up\n";
  }
}

}  // namespace halfstep
