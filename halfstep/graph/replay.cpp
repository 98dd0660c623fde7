#include "halfstep/graph/replay.h"

#include "halfstep/autocast/half_rehearsal.h"

#include <optional>
#include <utility>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/List.h>
#include <ATen/ops/as_strided.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace halfstep::detail {

namespace {

bool lives_on(const Value& value) {
  return value.kind == ValueKind::external || value.kind == ValueKind::constant;
}

}  // namespace

Replay::Replay(Program program, bool plan_memory)
    : program_(std::move(program)),
      steps_(program_.code.size()),
      values_(program_.values.size()),
      memory_(plan_memory ? std::make_unique<ReplayMemory>() : nullptr) {
  std::vector<int64_t> last(program_.values.size(), -1);
  for (size_t i = 0; i < program_.code.size(); ++i) {
    for (const auto& place : program_.code[i].operands) last[size_t(place.value)] = int64_t(i);
    for (const auto& place : program_.code[i].results) last[size_t(place.value)] = int64_t(i);
  }
  for (const auto* ids : {&program_.outputs, &program_.gradients}) {
    for (const auto& id : *ids) {
      if (id) last[size_t(*id)] = -1;
    }
  }
  for (size_t id = 0; id < last.size(); ++id) {
    const auto& value = program_.values[id];
    if (lives_on(value))
      values_[id] = value.tensor;
    else if (last[id] >= 0)
      steps_[size_t(last[id])].drop.push_back(ValueId(id));
    if (value.writes) written_.push_back(ValueId(id));
  }
}

StepResults Replay::run(at::TensorList inputs) {
  if (!memory_) return run_program(inputs);
  ReplayMemory::Run run(*memory_);
  auto results = run_program(inputs);
  run.end(results.outputs, results.gradients);
  return results;
}

StepResults Replay::run_program(at::TensorList inputs) {
  for (size_t i = 0; i < inputs.size(); ++i) values_[size_t(program_.inputs[i])] = inputs[i];
  note_writes();
  try {
    run_calls();
  } catch (...) {
    stack_.clear();
    let_go();
    throw;
  }
  StepResults results{collect(program_.outputs), collect(program_.gradients)};
  let_go();
  return results;
}

void Replay::note_writes() {
  for (const auto id : written_) {
    const auto& value = values_[size_t(id)];
    if (value.defined() && !value.is_inference()) value.unsafeGetTensorImpl()->bump_version();
  }
}

void Replay::run_calls() {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  std::optional<HalfRehearsal> rehearsal;
  bool rehearsed = false;
  for (size_t i = 0; i < program_.code.size(); ++i) {
    const auto& instruction = program_.code[i];
    if (instruction.is_alias) {
      call_alias(instruction);
    } else {
      if (instruction.rehearsed != rehearsed) {
        rehearsal.reset();
        rehearsed = instruction.rehearsed;
        if (rehearsed) rehearsal.emplace();
      }
      call(instruction);
    }
    for (const auto id : steps_[i].drop) values_[size_t(id)] = at::Tensor();
  }
}

void Replay::let_go() {
  for (size_t id = 0; id < values_.size(); ++id) {
    if (!lives_on(program_.values[id])) values_[id] = at::Tensor();
  }
}

void Replay::call(const Instruction& instruction) {
  push_arguments(instruction);
  // Profilers see a replay's calls as they see eager ones.
  at::RecordFunction seen(at::RecordScope::FUNCTION);
  if (seen.isActive()) seen.before(at::RecordFunction::FunctionDescriptor(instruction.op.schema()));
  instruction.op.redispatchBoxed(instruction.keys, &stack_);
  take_results(instruction);
  stack_.clear();
}

void Replay::call_alias(const Instruction& alias) {
  const auto& base = values_[size_t(alias.operands.front().value)];
  values_[size_t(alias.results.front().value)] =
      at::as_strided(base, alias.arguments[1].toIntVector(), alias.arguments[2].toIntVector(),
                     base.storage_offset() + alias.arguments[3].toInt());
}

void Replay::push_arguments(const Instruction& instruction) {
  stack_.assign(instruction.arguments.begin(), instruction.arguments.end());
  // A list is shared with the template: it gets a copy, which the operands then fill.
  int32_t list = -1;
  for (const auto& place : instruction.operands) {
    auto& argument = stack_[size_t(place.argument)];
    const auto& tensor = values_[size_t(place.value)];
    if (place.element < 0) {
      argument = tensor;
      continue;
    }
    if (list != place.argument) {
      list = place.argument;
      argument = argument.isTensorList() ? c10::IValue(argument.toTensorList().copy())
                                         : c10::IValue(argument.toOptionalTensorList().copy());
    }
    if (argument.isTensorList())
      argument.toTensorList().set(size_t(place.element), tensor);
    else
      argument.toOptionalTensorList().set(size_t(place.element), tensor);
  }
}

void Replay::take_results(const Instruction& instruction) {
  for (const auto& place : instruction.results) {
    auto& result = stack_[size_t(place.argument)];
    auto& value = values_[size_t(place.value)];
    value = place.element < 0 ? result.toTensor()
                              : result.toListRef()[size_t(place.element)].toTensor();
  }
}

std::vector<at::Tensor> Replay::collect(const std::vector<std::optional<ValueId>>& ids) const {
  std::vector<at::Tensor> tensors;
  tensors.reserve(ids.size());
  for (const auto& id : ids) tensors.push_back(id ? values_[size_t(*id)] : at::Tensor());
  return tensors;
}

}  // namespace halfstep::detail
