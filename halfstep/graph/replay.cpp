#include "halfstep/graph/replay.h"

#include "halfstep/autocast/half_rehearsal.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <utility>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/List.h>
#include <ATen/ops/alias.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace halfstep::detail {

namespace {

constexpr double kMebi = 1 << 20;

template <class Function>
void below_autograd(const Function& function) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  function();
}

}  // namespace

Replay::Replay(Program program, bool plan_memory)
    : program_(std::move(program)),
      steps_(program_.code.size()),
      values_(program_.values.size()),
      stays_(program_.values.size()),
      memory_(plan_memory ? std::make_unique<ReplayMemory>() : nullptr) {
  for (size_t id = 0; id < program_.values.size(); ++id) {
    values_[id] = program_.values[id].tensor;
    stays_[id] = values_[id].defined();
  }
  for (const auto& call : program_.code) {
    for (const auto& place : call.results)
      stays_[size_t(place.value)] = call.once || call.placed.has_value() || stays(place.value);
  }
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
    if (last[id] >= 0 && !stays(ValueId(id))) steps_[size_t(last[id])].drop.push_back(ValueId(id));
    if (program_.values[id].writes) written_.push_back(ValueId(id));
  }
}

bool Replay::is_prepared() const {
  return prepared_ && std::all_of(roots_.begin(), roots_.end(), [&](const Root& root) {
           return storage_of(root.value) == root.storage;
         });
}

const c10::StorageImpl* Replay::storage_of(ValueId id) const {
  return program_.value(id).tensor.storage().unsafeGetStorageImpl();
}

void Replay::prepare() {
  prepared_ = false;
  roots_.clear();
  if (placed_.count == 0) {
    placed_ = PlacedTensors::of(program_);
    for (size_t id = 0; id < values_.size(); ++id) {
      if (placed_.tensors[id].defined()) values_[id] = placed_.tensors[id];
    }
  }
  for (const auto& instruction : program_.code) {
    if (!instruction.once) continue;
    for (const auto& place : instruction.operands) {
      const auto& value = program_.value(place.value);
      // Its sizes and dtype are all that is asked for.
      if (!stays(place.value))
        values_[size_t(place.value)] =
            at::empty_strided(value.geometry.sizes, value.geometry.strides, value.geometry.dtype);
      if (value.tensor.defined()) roots_.push_back({place.value, storage_of(place.value)});
    }
    make(instruction);
  }
  let_go();
  prepared_ = true;
}

StepResults Replay::run(at::TensorList inputs) {
  if (!is_prepared()) below_autograd([this] { prepare(); });
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
    below_autograd([this] { run_calls(); });
  } catch (...) {
    stack_.clear();
    let_go();
    throw;
  }
  StepResults results;
  below_autograd([&] { results = {collect(program_.outputs), collect(program_.gradients)}; });
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
  observed_ = at::hasCallbacks();
  std::optional<HalfRehearsal> rehearsal;
  bool rehearsed = false;
  for (size_t i = 0; i < program_.code.size(); ++i) {
    const auto& instruction = program_.code[i];
    if (instruction.once) {
      let_go_after(i);
      continue;
    }
    if (instruction.rehearsed != rehearsed && !instruction.is_alias) {
      rehearsal.reset();
      rehearsed = instruction.rehearsed;
      if (rehearsed) rehearsal.emplace();
    }
    make(instruction);
    let_go_after(i);
  }
}

void Replay::let_go_after(size_t call) {
  for (const auto id : steps_[call].drop) values_[size_t(id)] = at::Tensor();
}

void Replay::let_go() {
  for (size_t id = 0; id < values_.size(); ++id) {
    if (!stays_[id]) values_[id] = at::Tensor();
  }
}

void Replay::make(const Instruction& instruction) {
  if (instruction.is_alias)
    call_alias(instruction);
  else
    call(instruction);
}

void Replay::call(const Instruction& instruction) {
  push_arguments(instruction);
  const auto& op = instruction.placed ? instruction.placed->op : instruction.op;
  if (observed_) {
    // Profilers see a replay's calls as they see eager ones.
    at::RecordFunction seen(at::RecordScope::FUNCTION);
    if (seen.isActive()) seen.before(at::RecordFunction::FunctionDescriptor(op.schema()));
    op.redispatchBoxed(instruction.keys, &stack_);
  } else {
    op.redispatchBoxed(instruction.keys, &stack_);
  }
  if (!instruction.placed) take_results(instruction);
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
  if (!instruction.placed) return;
  const auto& more = instruction.placed->more;
  stack_.insert(stack_.end(), more.begin(), more.end());
  for (const auto& place : instruction.results) stack_.emplace_back(values_[size_t(place.value)]);
}

void Replay::take_results(const Instruction& instruction) {
  for (const auto& place : instruction.results) {
    auto& result = stack_[size_t(place.argument)];
    auto& value = values_[size_t(place.value)];
    value = place.element < 0 ? result.toTensor()
                              : result.toListRef()[size_t(place.element)].toTensor();
  }
}

std::string Replay::memory() const {
  if (!has_memory_plan()) return "";
  std::array<char, 64> placed{};
  if (placed_.count > 0)
    std::snprintf(placed.data(), placed.size(), ", %zu placed results in %.2f MiB", placed_.count,
                  double(placed_.bytes) / kMebi);
  return memory_->to_string() + placed.data();
}

std::vector<at::Tensor> Replay::collect(const std::vector<std::optional<ValueId>>& ids) const {
  std::vector<at::Tensor> tensors;
  tensors.reserve(ids.size());
  for (const auto& id : ids) {
    if (!id)
      tensors.emplace_back();
    else if (stays(*id) || program_.value(*id).kind == ValueKind::input)
      tensors.push_back(at::alias(values_[size_t(*id)]));  // the caller's own
    else
      tensors.push_back(values_[size_t(*id)]);
  }
  return tensors;
}

}  // namespace halfstep::detail
