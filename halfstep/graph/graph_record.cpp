// How a Graph's calls find their recording and make one.
#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/shadow_weights.h"
#include "halfstep/core/error.h"
#include "halfstep/graph/compare_programs.h"
#include "halfstep/graph/graph_base.h"
#include "halfstep/graph/own_inputs.h"
#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/plan/forward_calls.h"
#include "halfstep/graph/recorder.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include <ATen/autocast_mode.h>

namespace halfstep {

using detail::Recording;

using detail::storage_of;

namespace {

using Tensors = std::vector<at::Tensor>;

/// Of the recording that has the most in common with `key`, the last used one of several.
const detail::RecordingKey& nearest_key(const detail::RecordingKey& key,
                                        const std::vector<std::unique_ptr<Recording>>& recordings) {
  const auto nearest = std::min_element(
      recordings.rbegin(), recordings.rend(),
      [&](const auto& a, const auto& b) { return key.distance(a->key) < key.distance(b->key); });
  return (*nearest)->key;
}

std::vector<int64_t> offsets_of(const Tensors& inputs) {
  std::vector<int64_t> offsets;
  for (const auto& input : inputs) offsets.push_back(input.defined() ? input.storage_offset() : 0);
  return offsets;
}

}  // namespace

Recording& GraphBase::recording_for(const Tensors& inputs, const std::vector<size_t>& structure) {
  drop_outdated();
  auto key = detail::RecordingKey::of(inputs, structure);
  for (auto it = recordings_.begin(); it != recordings_.end(); ++it) {
    if ((*it)->key != key) continue;
    std::rotate(it, it + 1, recordings_.end());
    auto& recording = *recordings_.back();
    if (recording.replay && recording.replay->program().fixed_offsets &&
        recording.input_offsets != offsets_of(inputs)) {
      recording = Recording{recording.key};
      tell("an input begins elsewhere in its memory, and build uses as_strided");
    } else if (!recording.replay) {
      tell("to compare it with the first recording");
    }
    return recording;
  }
  auto reason = recordings_.empty() ? "there is no recording yet"
                                    : key.difference_from(nearest_key(key, recordings_));
  if (int64_t(recordings_.size()) >= config_.max_recordings()) {
    recordings_.erase(recordings_.begin());
    reason += c10::str("; the recording used longest ago was dropped (max_recordings is ",
                       config_.max_recordings(), ")");
  }
  tell(reason);
  recordings_.push_back(std::make_unique<Recording>());
  recordings_.back()->key = std::move(key);
  return *recordings_.back();
}

void GraphBase::drop_outdated() {
  for (const auto& recording : recordings_) {
    if (!recording->watched) continue;
    auto change = recording->watched->change();
    if (!change && !recording->watched->refresh_copies())
      change = "a 16-bit copy of a weight is kept no more";
    if (change) {
      recordings_.clear();
      tell(*change);
      return;
    }
  }
}

std::vector<std::pair<std::string, at::Tensor>> GraphBase::known_tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> known;
  for (const auto& item : named_parameters()) known.emplace_back(item.key(), item.value());
  for (const auto& item : named_buffers()) known.emplace_back(item.key(), item.value());
  for (const auto& named : tensors_) known.push_back(named);
  for (size_t i = 0; i < optimizers_.size(); ++i) {
    size_t number = 0;
    for (const auto& group : optimizers_[i].optimizer->param_groups()) {
      for (const auto& parameter : group.params())
        known.emplace_back(c10::str("parameter ", number++, " of optimizer ", i), parameter);
    }
  }
  std::unordered_set<const c10::TensorImpl*> seen;
  for (size_t i = 0, count = known.size(); i < count; ++i) {
    const auto [name, tensor] = known[i];
    if (!seen.insert(tensor.unsafeGetTensorImpl()).second) continue;
    if (auto shadow = detail::shadow_of(tensor); shadow.defined())
      known.emplace_back("shadow of " + name, std::move(shadow));
  }
  if (scale_.defined()) known.emplace_back("the loss scale", scale_);
  return known;
}

Tensors GraphBase::trained_parameters() const {
  Tensors trained;
  std::unordered_set<const c10::TensorImpl*> seen;
  const auto add = [&](const at::Tensor& parameter) {
    if (parameter.requires_grad() && seen.insert(parameter.unsafeGetTensorImpl()).second)
      trained.push_back(parameter);
  };
  for (const auto& parameter : this->parameters()) add(parameter);
  for (const auto& stepped : optimizers_) {
    for (const auto& group : stepped.optimizer->param_groups()) {
      for (const auto& parameter : group.params()) add(parameter);
    }
  }
  return trained;
}

Tensors GraphBase::run_build(const Tensors& inputs, const Build& build,
                             const std::shared_ptr<detail::ForwardCalls>& calls) const {
  const bool by_policy = config_.amp_enabled() && calls == nullptr;
  const Autocast autocast(AutocastOptions(device_of(inputs).type())
                              .enabled(config_.amp_enabled())
                              .dtype(config_.amp_enabled() ? config_.amp_dtype() : std::nullopt)
                              .policy(by_policy ? config_.policy() : std::nullopt));
  at::autocast::clear_cache();
  const detail::BackwardGradient scaled([&](const at::Tensor& loss) {
    if (calls) calls->begin_backward();
    return start_of_backward(loss);
  });
  std::optional<detail::ForwardCallsGuard> guard;
  if (calls) guard.emplace(calls);
  auto outputs = build(inputs);
  guard.reset();
  if (scale_.defined() && scaled.uses() == 0) {
    for (const auto& parameter : parameters_)
      HALFSTEP_CHECK_USAGE(!parameter.grad().defined(), "Graph",
                           "with a scaler build must call loss.backward(), but gradients came from "
                           "another way (torch::autograd::backward); call loss.backward()");
  }
  return outputs;
}

Tensors GraphBase::record(Recording& recording, const Tensors& inputs, const Build& build) {
  if (plans_precision() && !recording.plan) return plan_and_record(recording, inputs, build);
  const auto known = known_tensors();
  std::unordered_set<const c10::StorageImpl*> storages;
  for (const auto& [name, tensor] : known) storages.insert(storage_of(tensor));
  const detail::OwnInputs own(inputs,
                              [&](const c10::StorageImpl* s) { return storages.count(s) != 0; });
  const auto recorder = std::make_shared<detail::Recorder>(*this);
  Tensors passed;
  size_t next = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    passed.push_back(inputs[i].defined() ? own.tensors[next++] : at::Tensor());
    if (inputs[i].defined()) recorder->add_input(passed.back(), "input " + std::to_string(i));
  }
  for (const auto& [name, tensor] : known) recorder->add_external(tensor, name);
  Tensors outputs;
  ++recorded_steps_;
  {
    const detail::RecordingGuard guard(recorder);
    outputs = run_planned(recording, passed, build);
  }
  if (!recorder->error().empty()) throw UsageError(recorder->error());
  std::vector<std::optional<detail::ValueId>> output_ids, gradient_ids;
  for (size_t i = 0; i < outputs.size(); ++i) {
    output_ids.push_back(outputs[i].defined() ? std::optional(recorder->value_of(
                                                    outputs[i], "output " + std::to_string(i)))
                                              : std::nullopt);
    if (outputs[i].defined()) outputs[i] = outputs[i].detach();
  }
  for (const auto& parameter : parameters_) {
    gradient_ids.push_back(parameter.grad().defined()
                               ? std::optional(recorder->value_of(parameter.grad(), "a gradient"))
                               : std::nullopt);
  }
  auto program = recorder->take_program();
  program.outputs = std::move(output_ids);
  program.gradients = std::move(gradient_ids);
  own.check_writes(program);
  ++recording.recorded;
  const auto differs = recording.first ? difference(recorder->places(), *recording.first, program)
                                       : std::optional<std::string>("");
  HALFSTEP_CHECK_USAGE(!differs || recording.recorded < Recording::kMostRecorded, "Graph",
                       "build must do the same in each call, but ", *differs,
                       "; keep what changes in a tensor that build reads (an input, a buffer, "
                       "add_tensor()), and decide on the host outside of it");
  if (differs) {
    recording.first = std::move(program);
    return outputs;
  }
  recording.first.reset();
  recording.input_offsets = offsets_of(inputs);
  Tensors weights;
  for (const auto& [name, tensor] : known) weights.push_back(tensor);
  recording.watched.emplace(program, *this, weights);
  run_passes(program);
  recording.replay = std::make_unique<detail::Replay>(
      std::move(program), config_.pass_enabled(GraphConfig::kPlanMemory));
  recording.captured = make_capture(recording);
  return outputs;
}

void GraphBase::run_passes(detail::Program& program) const {
  if (debug_level_ >= 2) *debug_out_ << "as recorded\n" << program.to_string();
  for (const auto& pass : detail::passes()) {
    if (!config_.pass_enabled(pass.name)) continue;
    const auto count = pass.run(program);
    if (debug_level_ >= 1)
      *debug_out_ << "[Graph] " << pass.name << ' ' << pass.did << ' ' << count << ' ' << pass.what
                  << '\n';
    if (debug_level_ >= 3) *debug_out_ << program.to_string();
  }
  if (debug_level_ == 1 || debug_level_ == 2) *debug_out_ << program.to_string();
}

}  // namespace halfstep
