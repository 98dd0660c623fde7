#include "halfstep/optim/clip_grad.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/scaling/device_copies.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/clamp.h>

namespace halfstep::optim {

namespace {

/// Of float32 masters and gradients that exist for a call only, about this many at once.
constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 24;

/// Parameters one kernel call can take, and what comes after it.
struct Call {
  std::size_t group = 0;
  detail::FusedBatch batch;
  std::vector<FusedState*> states;
  std::vector<at::Tensor> originals;           // the user's parameters
  std::vector<at::Tensor> copy_to, copy_from;  // after the call
  std::vector<std::size_t> splits;             // indices of masters to be kept as remainder
};

/// The call of these that can take a parameter, or a new one.
Call& find_call(std::vector<Call>& calls, std::size_t group, const at::Tensor& parameter,
                bool is_first_step) {
  for (auto& call : calls) {
    const auto& first = call.batch.parameters.front();
    if (call.group == group && first.device() == parameter.device() &&
        first.scalar_type() == parameter.scalar_type() && call.batch.is_first_step == is_first_step)
      return call;
  }
  auto& call = calls.emplace_back();
  call.group = group;
  call.batch.is_first_step = is_first_step;
  return call;
}

void clip_values(const detail::FusedBatch& batch, double limit) {
  if (!batch.grad_scale) return detail::clamp_(batch.gradients, limit);
  const auto scaled = *batch.grad_scale * limit;
  for (const auto& gradient : batch.gradients) gradient.clamp_(-scaled, scaled);
}

void add_to_steps(const std::vector<at::Tensor>& steps) {
  if (steps.empty()) return;
  if (!steps.front().device().is_cpu()) return at::_foreach_add_(steps, 1);
  for (const auto& step : steps) {  // a foreach op on the CPU takes longer than a small update
    step.mutable_data_ptr<float>()[0] += 1;
    detail::bump_version(step);
  }
}

void bump_versions(const detail::FusedBatch& batch) {
  for (const auto& tensor : batch.parameters) detail::bump_version(tensor);
  for (const auto& buffer : batch.buffers) {
    for (const auto& tensor : buffer) detail::bump_version(tensor);
  }
  if (!batch.grad_scale) return;
  for (const auto& tensor : batch.gradients) detail::bump_version(tensor);
}

}  // namespace

struct FusedOptimizer::AtenFactors {
  std::optional<halfstep::detail::DeviceCopies> divisors, flags;
};

void FusedOptimizer::step_with_aten(std::vector<Prepared>& work, const Divisor& divisor) {
  if (work.empty()) return;
  AtenFactors factors;
  if (divisor.tensor) factors.divisors.emplace(*divisor.tensor);
  // Flags of several devices may have been added up, but the kernels skip at exactly 1.
  if (found_inf) factors.flags.emplace(found_inf->clamp_max(1));
  for (std::size_t begin = 0; begin < work.size();) {
    auto end = begin;
    for (std::int64_t elements = 0; end < work.size() && elements < kElementsAtOnce; ++end)
      if (work[end].has_master) elements += work[end].item.parameter.numel();
    step_part_with_aten(work, begin, end, factors);
    begin = end;
  }
}

void FusedOptimizer::step_part_with_aten(std::vector<Prepared>& work, std::size_t begin,
                                         std::size_t end, AtenFactors& factors) {
  auto& [divisors, flags] = factors;
  std::vector<Call> calls;
  for (auto i = begin; i < end; ++i) {
    auto& ready = work[i];
    const auto& item = ready.item;
    auto* state = ready.state;
    const bool splits = ready.has_master && state->master.scalar_type() == c10::kShort;
    auto parameter = std::move(ready.parameter);
    if (splits) parameter = {detail::join_master(item.parameter, state->master), true};
    auto gradient = std::move(ready.gradient);
    if (ready.has_master) gradient = work_gradient(item.gradient, parameter.tensor, true);

    auto& call = find_call(calls, item.group, parameter.tensor, ready.is_first_step);
    call.states.push_back(state);
    call.originals.push_back(item.parameter);
    call.batch.parameters.push_back(parameter.tensor);
    call.batch.gradients.push_back(gradient.tensor);
    if (state->step.defined()) call.batch.steps.push_back(state->step);
    for (std::size_t b = 0; b < FusedState::kBuffers; ++b) {
      if (state->buffers[b].defined()) call.batch.buffers[b].push_back(state->buffers[b]);
    }
    const auto copy_back = [&call = call](const at::Tensor& to, const at::Tensor& from) {
      call.copy_to.push_back(to);
      call.copy_from.push_back(from);
    };
    if (parameter.is_copy && !splits) copy_back(item.parameter, parameter.tensor);
    // An expanded gradient has no room for its elements.
    if (gradient.is_copy && (divisors || settings_.clips_value()) &&
        at::has_internal_overlap(item.gradient) != at::MemOverlap::Yes)
      copy_back(item.gradient, gradient.tensor);
    if (splits) call.splits.push_back(call.states.size() - 1);
  }

  for (auto& call : calls) {
    const auto& options = options_of(call.group);
    auto& batch = call.batch;
    const auto device = batch.parameters.front().device();
    if (divisors) batch.grad_scale = divisors->get(device);
    if (flags && !device.is_cpu()) batch.found_inf = flags->get(device);
    if (settings_.capturable) batch.lr = rate_on(device, call.group);
    // The kernels can't. Limited as they are, scaled: unscaled, float16 gradients would fade to 0.
    if (settings_.clips_value()) clip_values(batch, settings_.clip_value);
    add_to_steps(batch.steps);
    call_aten(batch, options);
    if (batch.found_inf && !batch.steps.empty())
      at::_foreach_sub_(batch.steps, std::vector<at::Tensor>(batch.steps.size(), *batch.found_inf));
    bump_versions(batch);
    if (!call.copy_to.empty()) at::_foreach_copy_(call.copy_to, call.copy_from);
    for (const auto i : call.splits)
      detail::split_master(batch.parameters[i], call.originals[i], call.states[i]->master);
    for (const auto& parameter : call.originals) write_shadow(parameter);
    if (batch.is_first_step && batch.found_inf && drops_skipped_first_step(options) &&
        batch.found_inf->item<float>() != 0) {
      for (auto* state : call.states) state->buffers.fill({});
    }
  }
}

}  // namespace halfstep::optim
