#include "halfstep/graph/recorder.h"

#include "halfstep/autocast/op_names.h"
#include "halfstep/autocast/rehearsal_kernels.h"
#include "halfstep/core/error.h"
#include "halfstep/graph/op_traits.h"

#include <utility>

#include <ATen/core/List.h>
#include <ATen/core/enum_tag.h>
#include <torch/csrc/autograd/graph_task.h>

namespace halfstep::detail {

namespace {

constexpr const char* kRecorderWhere = "Graph";

/// An argument without its tensors: what is the same in each replay.
c10::IValue without_tensors(const c10::IValue& value) {
  if (value.isTensor()) return at::Tensor();
  if (value.isTensorList()) return std::vector<at::Tensor>(value.toListRef().size());
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> places;
    places.resize(value.toOptionalTensorList().size(), std::nullopt);
    return places;
  }
  return value;
}

/// Calls `visit(element, tensor)` for the tensors of an argument or result; element -1 for one that
/// is not in a list.
template <class Visit>
void visit_value(const c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(-1, value.toTensor());
  } else if (value.isTensorList()) {
    int32_t element = 0;
    for (const auto& item : value.toListRef()) {
      if (item.toTensor().defined()) visit(element, item.toTensor());
      ++element;
    }
  } else if (value.isOptionalTensorList()) {
    int32_t element = 0;
    for (const std::optional<at::Tensor> item : value.toOptionalTensorList()) {
      if (item && item->defined()) visit(element, *item);
      ++element;
    }
  }
}

c10::OperatorHandle as_strided() {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::as_strided", "");
  return op;
}

}  // namespace

void Recorder::add_input(const at::Tensor& tensor, std::string name) {
  program_.inputs.push_back(table_.add(tensor, ValueKind::input, std::move(name)));
}

void Recorder::add_external(const at::Tensor& tensor, std::string name) {
  if (!table_.find_exactly(tensor)) table_.add(tensor, ValueKind::external, std::move(name));
}

ValueId Recorder::value_of(const at::Tensor& tensor, const std::string& what) {
  if (const auto found = table_.find(tensor)) return *found;
  if (const auto memory = table_.find_memory(tensor)) return add_alias(tensor, *memory);
  fail(what +
       " must be computed by recorded operations, but it was made elsewhere; return what "
       "build computed from its inputs");
}

void Recorder::call(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                    torch::jit::Stack* stack) {
  const auto below =
      keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::Fake);
  const c10::impl::ExcludeDispatchKeyGuard only_this_call(c10::DispatchKey::Fake);
  if (is_question(op) && !op.hasTag(at::Tag::data_dependent_output))
    return op.redispatchBoxed(below, stack);
  if (op.hasTag(at::Tag::inplace_view)) return call_in_place_view(op, below, stack);
  auto instruction = begin(op, below, *stack);
  op.redispatchBoxed(below, stack);
  end(std::move(instruction), *stack);
}

/// Recorded as a view that is another tensor, so that a value always lies as it did.
void Recorder::call_in_place_view(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                                  torch::jit::Stack* stack) {
  const auto before = [&] {
    const std::lock_guard lock(mutex_);
    const auto arguments = checked_arguments(op, *stack);
    const auto& self = arguments[0].toTensor();
    auto id = table_.find(self);
    if (!id) {
      if (const auto memory = table_.find_memory(self)) id = add_alias(self, *memory);
    }
    if (!id || program_.value(*id).kind != ValueKind::computed)
      fail("a recorded step may change the shape of what it computed, but " +
           call_text(op, arguments) +
           " changes that of another tensor; use the op that makes a view (without _)");
    return *id;
  }();
  op.redispatchBoxed(keys, stack);
  const std::lock_guard lock(mutex_);
  const auto& tensor = stack->back().toTensor();
  if (Geometry::of(tensor) != program_.value(before).geometry) add_alias(tensor, before);
}

c10::ArrayRef<c10::IValue> Recorder::checked_arguments(const c10::OperatorHandle& op,
                                                       const torch::jit::Stack& stack) {
  const auto count = op.schema().arguments().size();
  const c10::ArrayRef<c10::IValue> arguments(stack.data() + (stack.size() - count), count);
  if (const auto reason = why_not_recorded(op, arguments))
    fail("a step that is replayed must not depend on values, but " + call_text(op, arguments) +
         " " + *reason);
  return arguments;
}

std::string Recorder::call_text(const c10::OperatorHandle& op,
                                c10::ArrayRef<c10::IValue> arguments) const {
  std::vector<at::Tensor> operands;
  for (const auto& argument : arguments)
    visit_value(argument, [&](int32_t, const at::Tensor& tensor) { operands.push_back(tensor); });
  return op_name(op.operator_name()) + places_.of_next(program_, operands);
}

Instruction Recorder::begin(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                            const torch::jit::Stack& stack) {
  const std::lock_guard lock(mutex_);
  const auto arguments = checked_arguments(op, stack);
  Instruction instruction{op, keys};
  instruction.backward = torch::autograd::get_current_graph_task_id() >= 0;
  instruction.rehearsed = rehearses_here();
  for (size_t i = 0; i < arguments.size(); ++i) {
    visit_value(arguments[i], [&](int32_t element, const at::Tensor& tensor) {
      add_operand(instruction, i, element, tensor, arguments);
    });
    instruction.arguments.push_back(without_tensors(arguments[i]));
  }
  if (op.schema().name() == "aten::as_strided" && !instruction.operands.empty() &&
      table_.is_in_input(arguments[0].toTensor()))
    program_.fixed_offsets = true;
  return instruction;
}

void Recorder::add_operand(Instruction& instruction, size_t argument, int32_t element,
                           const at::Tensor& tensor, c10::ArrayRef<c10::IValue> arguments) {
  const auto& op = instruction.op;
  const auto use = argument_use(op, argument, arguments);
  const auto says = [&] {
    return "operand " + op.schema().arguments()[argument].name() + " of " +
           call_text(op, arguments) + ", " + Geometry::of(tensor).to_string() + ",";
  };
  if (!tensor.has_storage())
    fail("a recorded step computes with dense tensors, but " + says() +
         " has no memory of its own; call it outside of build");
  auto id = table_.find(tensor);
  if (!id) {
    if (const auto memory = table_.find_memory(tensor)) {
      id = add_alias(tensor, *memory);
    } else if (tensor.is_cpu() && tensor.dim() == 0 && use == ArgumentUse::read) {
      id = table_.add(tensor, ValueKind::constant, "");
    } else {
      fail("a recorded step may use its inputs, parameters, buffers and what it computed, but " +
           says() +
           " is none of them; pass it as an input, register it as a buffer, or name it with "
           "add_tensor()");
    }
  }
  const bool reads = use == ArgumentUse::read || use == ArgumentUse::read_write;
  if (reads && table_.is_unwritten(tensor))
    fail("a recorded step can't see what is written past LibTorch's operations, but " + says() +
         " was made empty and written by nobody it knows of (torch::tensor() of a host value does "
         "that); make the tensor outside of build and register it as a buffer, or use full()");
  instruction.operands.push_back({int32_t(argument), element, *id});
  if (use == ArgumentUse::write || use == ArgumentUse::read_write) {
    instruction.writes.push_back(*id);
    table_.note_written(tensor);
  }
}

void Recorder::end(Instruction instruction, const torch::jit::Stack& stack) {
  const std::lock_guard lock(mutex_);
  const auto count = instruction.op.schema().returns().size();
  for (size_t i = 0; i < count; ++i) {
    visit_value(stack[stack.size() - count + i], [&](int32_t element, const at::Tensor& tensor) {
      add_result(instruction, i, element, tensor);
    });
  }
  program_.code.push_back(std::move(instruction));
}

void Recorder::add_result(Instruction& instruction, size_t result, int32_t element,
                          const at::Tensor& tensor) {
  if (!tensor.has_storage())
    fail("a recorded step computes with dense tensors, but " +
         op_name(instruction.op.operator_name()) +
         " made one without memory of its own; call it "
         "outside of build");
  // Not by geometry: a view that looks like an older value outlives it perhaps.
  const auto known = table_.find_exactly(tensor);
  const auto id = known ? *known : table_.add(tensor, ValueKind::computed, "");
  if (makes_unwritten(instruction.op)) table_.note_unwritten(tensor);
  instruction.results.push_back({int32_t(result), element, id});
}

ValueId Recorder::add_alias(const at::Tensor& tensor, ValueId of) {
  const auto& base = program_.value(of).geometry;
  if (tensor.is_conj() != base.is_conj || tensor.is_neg() != base.is_neg)
    fail("a recorded step can't see where a conjugate or negative view of " + base.to_string() +
         " was made; call resolve_conj() or resolve_neg() on it in build");
  const auto base_offset = base.offset;
  Instruction alias{as_strided(), c10::DispatchKeySet()};
  alias.is_alias = true;
  alias.arguments = {at::Tensor(), tensor.sizes().vec(), tensor.strides().vec(),
                     tensor.storage_offset() - base_offset};
  alias.operands.push_back({0, -1, of});
  const auto id = table_.add(tensor, ValueKind::computed, "");
  alias.results.push_back({0, -1, id});
  program_.code.push_back(std::move(alias));
  return id;
}

void Recorder::fail(const std::string& message) {
  if (error_.empty()) error_ = c10::str("[", kRecorderWhere, "] ", message);
  throw UsageError(error_);
}

}  // namespace halfstep::detail
