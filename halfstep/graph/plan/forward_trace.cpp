#include "halfstep/graph/plan/forward_trace.h"

#include "halfstep/autocast/module_scope.h"
#include "halfstep/autocast/op_names.h"
#include "halfstep/core/dtype.h"
#include "halfstep/graph/op_traits.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <ATen/autocast_mode.h>
#include <ATen/ops/alias.h>

namespace halfstep::detail {

namespace {

bool is_one_of(const at::Tensor& tensor, const std::vector<CallTensor>& operands, bool written) {
  return std::any_of(operands.begin(), operands.end(), [&](const CallTensor& operand) {
    return operand.is_written == written && operand.tensor.is_same(tensor);
  });
}

}  // namespace

void ForwardTrace::add_outside(const at::Tensor& tensor, const std::string& name) {
  if (by_tensor_.count(tensor.unsafeGetTensorImpl()) == 0) add_value(tensor, name, std::nullopt);
}

void ForwardTrace::call(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  // A region of Autocast that is disabled, in build: nothing in it is planned.
  const bool is_enabled = at::autocast::is_autocast_enabled(device_type_);
  const Below below;
  if (is_question(op)) return op.callBoxed(stack);
  const auto count = op.schema().arguments().size();
  const c10::ArrayRef<c10::IValue> arguments(stack->data() + (stack->size() - count), count);
  auto operands = operands_of(op, arguments);
  PlanNode node{op_name(op.operator_name())};
  if (any_floating(operands) && is_enabled) node.color = colors_.of(op, arguments);
  node.module = module_of(operands);
  {
    const std::lock_guard lock(mutex_);
    for (const auto& operand : operands)
      node.operands.push_back({value_of(operand.tensor), operand.stays_float32});
    raise_low_operands(op, operands, stack);
  }
  op.callBoxed(stack);
  tell_apart(op, operands, stack);
  const auto results = results_of(op, *stack);
  if (!any_floating(operands) && !any_floating(results)) return;
  const std::lock_guard lock(mutex_);
  add_node(std::move(node), operands, results);
}

/// Casts 16-bit operands beside float32 ones to float32, on the stack.
void ForwardTrace::raise_low_operands(const c10::OperatorHandle& op,
                                      std::vector<CallTensor>& operands, torch::jit::Stack* stack) {
  std::vector<bool> planned;
  planned.reserve(operands.size());
  for (const auto& operand : operands)
    planned.push_back(type_of(operand.tensor, device_type_) == kPlanned);
  if (!casts_low_operands(op, operands, planned)) return;
  const auto count = op.schema().arguments().size();
  change_tensors(
      stack->data() + (stack->size() - count), count, [&](const at::Tensor& tensor) -> at::Tensor {
        const bool is_low =
            tensor.device().type() == device_type_ && is_low_precision(tensor.scalar_type());
        if (!is_low || is_one_of(tensor, operands, /*written=*/true)) return {};
        return tensor.to(c10::kFloat);
      });
}

/// An op may give back its operand (dropout while evaluating): a tensor of its own in its place
/// tells the two apart.
void ForwardTrace::tell_apart(const c10::OperatorHandle& op,
                              const std::vector<CallTensor>& operands,
                              torch::jit::Stack* stack) const {
  const auto count = op.schema().returns().size();
  change_tensors(stack->data() + (stack->size() - count), count,
                 [&](const at::Tensor& tensor) -> at::Tensor {
                   return is_one_of(tensor, operands, /*written=*/false) &&
                                  !is_one_of(tensor, operands, /*written=*/true)
                              ? at::alias(tensor)
                              : at::Tensor();
                 });
}

std::string ForwardTrace::module_of(const std::vector<CallTensor>& operands) const {
  if (const auto* scope = ModuleScopeState::current()) {
    if (scope->module == nullptr) return scope->path;
    if (const auto module = tree_.find(*scope)) return tree_.paths()[*module];
  }
  for (const auto& operand : operands) {
    const auto& owners = tree_.owners(operand.tensor);
    if (!owners.empty()) return tree_.paths()[owners.front()];
  }
  return "";
}

ForwardTrace::Memory* ForwardTrace::memory_of(const at::Tensor& tensor) {
  if (!tensor.has_storage()) return nullptr;
  const auto found = by_storage_.find(tensor.storage().unsafeGetStorageImpl());
  return found == by_storage_.end() ? nullptr : &found->second;
}

size_t ForwardTrace::value_of(const at::Tensor& tensor) {
  const auto* memory = memory_of(tensor);
  const auto known = by_tensor_.find(tensor.unsafeGetTensorImpl());
  if (known != by_tensor_.end()) {
    // Its memory was written since: what is read is what the writer left there.
    const bool is_old = memory != nullptr && memory->writes != known->second.writes;
    return is_old ? memory->last_value : known->second.value;
  }
  if (memory != nullptr && !memory->nodes.empty()) return memory->last_value;
  return add_value(tensor, "", std::nullopt);
}

size_t ForwardTrace::add_value(const at::Tensor& tensor, const std::string& name,
                               std::optional<size_t> producer) {
  const auto value = graph_.values.size();
  graph_.values.push_back({name, type_of(tensor, device_type_), producer});
  takes_gradient_.push_back(producer && tensor.requires_grad());
  int64_t writes = 0;
  if (tensor.has_storage()) {
    auto& memory = by_storage_
                       .try_emplace(tensor.storage().unsafeGetStorageImpl(),
                                    Memory{tensor.storage().getWeakStorageImpl(), value})
                       .first->second;
    memory.last_value = value;
    if (producer)
      memory.nodes.push_back(*producer);
    else
      memory.is_outside = true;
    writes = memory.writes;
  }
  Known known{decltype(Known::alive)(tensor.getIntrusivePtr()), value, writes};
  by_tensor_.insert_or_assign(tensor.unsafeGetTensorImpl(), std::move(known));
  return value;
}

void ForwardTrace::add_node(PlanNode node, const std::vector<CallTensor>& operands,
                            const std::vector<CallTensor>& results) {
  const auto number = graph_.nodes.size();
  for (const auto& operand : operands) {
    auto* memory = operand.is_written ? memory_of(operand.tensor) : nullptr;
    if (memory != nullptr) ++memory->writes;
  }
  for (const auto& result : results) node.results.push_back(add_value(result.tensor, "", number));
  for (const auto& operand : operands) {
    const bool returned = std::any_of(results.begin(), results.end(), [&](const auto& result) {
      return result.tensor.is_same(operand.tensor);
    });
    if (operand.is_written && !returned)
      node.results.push_back(add_value(operand.tensor, "", number));
  }
  graph_.nodes.push_back(std::move(node));
}

/// Nodes with results in memory that one of them writes run in one dtype.
void ForwardTrace::join_by_memory() {
  std::vector<size_t> first(graph_.nodes.size());
  std::iota(first.begin(), first.end(), size_t{0});
  const auto find = [&](size_t node) {
    while (first[node] != node) node = first[node];
    return node;
  };
  for (const auto& [storage, memory] : by_storage_) {
    if (memory.writes == 0) continue;
    for (const auto node : memory.nodes) {
      if (memory.is_outside) graph_.nodes[node].fixed = true;
      const auto a = find(node), b = find(memory.nodes.front());
      first[std::max(a, b)] = std::min(a, b);
    }
  }
  for (size_t i = 0; i < first.size(); ++i) {
    if (find(i) != i) graph_.nodes[i].with = find(i);
  }
}

OpGraph ForwardTrace::take(const std::vector<at::Tensor>& outputs) {
  const std::lock_guard lock(mutex_);
  join_by_memory();
  std::vector<bool> used(graph_.values.size());
  for (const auto& node : graph_.nodes) {
    for (const auto& operand : node.operands) used[operand.value] = true;
  }
  for (const auto& output : outputs) {
    if (!output.defined() || !output.is_floating_point()) continue;
    const auto value = value_of(output);
    if (value < used.size()) used[value] = true;
    const auto number = graph_.nodes.size();
    PlanNode node{"output"};
    node.operands.push_back({value});
    node.results.push_back(graph_.values.size());
    graph_.values.push_back({"", graph_.values[value].type, number});
    graph_.nodes.push_back(std::move(node));
  }
  // A loss that build does not return is not the end of its line.
  for (size_t value = 0; value < used.size(); ++value) {
    if (used[value] || !takes_gradient_[value]) continue;
    PlanNode node{"backward"};
    node.operands.push_back({value});
    graph_.nodes.push_back(std::move(node));
  }
  return std::move(graph_);
}

}  // namespace halfstep::detail
