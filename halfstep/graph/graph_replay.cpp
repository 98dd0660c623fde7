// How a Graph's calls are replayed.
#include "halfstep/graph/check_replay.h"
#include "halfstep/graph/graph_base.h"
#include "halfstep/graph/own_inputs.h"

#include <utility>

namespace halfstep {

std::unique_ptr<detail::CapturedReplay> GraphBase::make_capture(
    const detail::Recording& recording) const {
  if (!config_.pass_enabled(GraphConfig::kCudaGraph)) return nullptr;
  auto parameters = recording.parameters;
  const auto& gradients = recording.replay->program().gradients;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!gradients[i]) parameters[i] = at::Tensor();
  }
  std::string never;
  if (config_.gradient_accumulation_steps() > 1)
    never = "gradients of several parts are added up";
  else if (config_.checks_replays())
    never = "the checked mode looks at gradients before they are used";
  return detail::CapturedReplay::make(*recording.replay, [&](c10::Device device) {
    return optimizers_.empty() ? nullptr
                               : std::make_unique<detail::StepCapture>(optimizers_, scaler_,
                                                                       parameters, device, never);
  });
}

std::vector<at::Tensor> GraphBase::replay(detail::Recording& recording, const Tensors& inputs,
                                          const Build& build, const std::string& why_no_step) {
  auto& replay = *recording.replay;
  auto* captured = recording.captured.get();
  const detail::OwnInputs own(
      inputs, [&](const c10::StorageImpl* storage) { return recording.watched->holds(storage); });
  own.check_writes(replay.program());
  const auto run = [&] {
    return captured != nullptr ? captured->run(own.tensors, why_no_step) : replay.run(own.tensors);
  };
  detail::StepResults results;
  const bool planned = replay.has_memory_plan();
  const auto why_not_before = captured != nullptr ? captured->why_not() : "";
  if (config_.checks_replays()) {
    results = detail::check_replay(replay.program(), own.tensors, run, [&](const Tensors& defined) {
      size_t next = 0;
      Tensors passed;
      for (const auto& input : inputs)
        passed.push_back(input.defined() ? defined[next++] : at::Tensor());
      detail::StepResults eager{run_planned(recording, passed, build), {}};
      for (const auto& parameter : parameters_) {
        eager.gradients.push_back(parameter.grad());
        parameter.mutable_grad() = at::Tensor();
      }
      return eager;
    });
  } else {
    results = run();
  }
  ++replayed_steps_;
  if (captured != nullptr) {
    why_not_captured_ = captured->why_not();
    if (why_not_captured_.empty()) {
      ++captured_steps_;
      why_step_not_captured_ = captured->why_no_step();
    }
    launched_step_ = captured->launched_step();
  }
  if (debug_level_ >= 1) {
    if (!planned && replay.has_memory_plan())
      *debug_out_ << "[Graph] plan_memory: " << replay.memory() << '\n';
    if (captured != nullptr && captured->why_not() != why_not_before) {
      *debug_out_ << "[Graph] cuda_graph: "
                  << (why_not_captured_.empty() ? "launched as one"
                                                : "op by op, for " + why_not_captured_);
      if (!why_step_not_captured_.empty())
        *debug_out_ << ", without the step, for " << why_step_not_captured_;
      *debug_out_ << '\n';
    }
  }
  for (size_t i = 0; i < parameters_.size(); ++i)
    parameters_[i].mutable_grad() = results.gradients[i];
  return std::move(results.outputs);
}

}  // namespace halfstep
