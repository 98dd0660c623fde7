#include "halfstep/graph/plan/planned_run.h"

#include "halfstep/autocast/autocast_kernels.h"
#include "halfstep/autocast/op_names.h"
#include "halfstep/autocast/policy_region.h"
#include "halfstep/core/dtype.h"
#include "halfstep/graph/op_traits.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

namespace halfstep::detail {

namespace {

bool is_call(const PlanNode& node) {
  return node.op != "output" && node.op != "backward";
}

uint32_t version_of(const at::Tensor& tensor) {
  return tensor.is_inference() ? 0 : uint32_t(tensor._version());
}

}  // namespace

PlannedRun::PlannedRun(std::shared_ptr<const PrecisionPlan> plan, c10::DeviceType device_type,
                       std::string remedy)
    : plan_(std::move(plan)),
      device_type_(device_type),
      remedy_(std::move(remedy)),
      surrounding_(PolicyRegion::current(device_type)) {
  const auto& nodes = plan_->nodes();
  calls_ = size_t(std::count_if(nodes.begin(), nodes.end(), is_call));
}

void PlannedRun::fail(const std::string& but) {
  const auto message =
      "[Graph] build must make the calls of its precision plan, but " + but + "; " + remedy_;
  if (error_.empty()) error_ = message;
  throw PlanMismatch(message);
}

void PlannedRun::check_autocast() {
  if (!at::autocast::is_autocast_enabled(device_type_)) return;
  const auto dtype = at::autocast::get_autocast_dtype(device_type_);
  HALFSTEP_CHECK_USAGE(
      dtype == plan_->dtype() && PolicyRegion::current(device_type_) == surrounding_, "Graph",
      "a build with a precision plan must not open autocast regions with "
      "a dtype or policy of their own, but one has ",
      dtype_name(dtype), "; give the graph's config the policy, or open a disabled region");
}

void PlannedRun::call(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  check_autocast();
  const Below below;
  if (is_question(op)) return op.callBoxed(stack);
  const std::lock_guard lock(mutex_);
  const auto count = op.schema().arguments().size();
  const auto operands =
      operands_of(op, c10::ArrayRef<c10::IValue>(stack->data() + (stack->size() - count), count));
  std::optional<size_t> node;
  if (any_floating(operands)) {
    node = begin(op, operands);
    cast_operands(*node, op, operands, stack);
  }
  op.callBoxed(stack);
  if (!node) {
    if (!any_floating(results_of(op, *stack))) return;
    node = begin(op, operands);
  }
  settle_results(*node, op, operands, stack);
}

c10::ScalarType PlannedRun::dtype_of(size_t node) const {
  return plan_->is_low(node) ? plan_->dtype() : c10::kFloat;
}

bool PlannedRun::fits(const at::Tensor& tensor, size_t value) const {
  const auto& planned = plan_->graph().values[value];
  const auto type = type_of(tensor, device_type_);
  return type == planned.type || (is_planned(planned) && type == dtype_name(plan_->dtype()));
}

/// The plan's next node, if this call is its.
size_t PlannedRun::begin(const c10::OperatorHandle& op, const std::vector<CallTensor>& operands) {
  const auto name = op_name(op.operator_name());
  if (next_ == calls_) fail("after its " + std::to_string(calls_) + " calls comes " + name);
  const auto& node = plan_->nodes()[next_];
  const auto where = "call " + std::to_string(next_);
  if (node.op != name) fail(where + " is " + node.op + " there and was " + name);
  if (node.operands.size() != operands.size())
    fail(c10::str(where, ", ", name, ", takes ", node.operands.size(), " tensors there and took ",
                  operands.size()));
  for (size_t i = 0; i < operands.size(); ++i) {
    const auto value = node.operands[i].value;
    if (!fits(operands[i].tensor, value))
      fail(c10::str(where, ", ", name, ", takes ", plan_->graph().values[value].type, " as tensor ",
                    i, " there and took ", type_of(operands[i].tensor, device_type_)));
  }
  return next_++;
}

void PlannedRun::cast_operands(size_t node, const c10::OperatorHandle& op,
                               const std::vector<CallTensor>& operands, torch::jit::Stack* stack) {
  const auto& planned = plan_->nodes()[node];
  std::vector<bool> is_planned_operand;
  for (const auto& operand : planned.operands)
    is_planned_operand.push_back(is_planned(plan_->graph().values[operand.value]));
  const bool casts_low = casts_low_operands(op, operands, is_planned_operand);
  const auto to = dtype_of(node);
  std::vector<std::pair<at::Tensor, at::Tensor>> casts;  // from, to
  for (size_t i = 0; i < operands.size(); ++i) {
    const auto& tensor = operands[i].tensor;
    const bool is_low =
        tensor.device().type() == device_type_ && is_low_precision(tensor.scalar_type());
    if (!is_planned_operand[i] && !(casts_low && is_low)) continue;
    const auto wanted = planned.operands[i].stays_float32 ? c10::kFloat : to;
    if (tensor.scalar_type() == wanted) continue;
    const bool is_written = std::any_of(operands.begin(), operands.end(), [&](const auto& other) {
      return other.is_written && other.tensor.is_same(tensor);
    });
    if (!is_written) {
      casts.emplace_back(tensor, cast(tensor, wanted));
    } else if (is_planned_operand[i] && wanted == c10::kFloat) {
      fail("call " + std::to_string(node) + ", " + planned.op +
           ", is to run in float32 and writes into a 16-bit tensor (a \"with\" of the plan is "
           "lost)");
    }
  }
  const auto count = op.schema().arguments().size();
  change_tensors(stack->data() + (stack->size() - count), count,
                 [&](const at::Tensor& tensor) -> at::Tensor {
                   for (const auto& [from, cast_of] : casts) {
                     if (tensor.is_same(from)) return cast_of;
                   }
                   return {};
                 });
}

/// Results that the op made 16-bit by what it knows of its operands' dtypes get the plan's dtype;
/// casts of what it wrote are forgotten.
void PlannedRun::settle_results(size_t node, const c10::OperatorHandle& op,
                                const std::vector<CallTensor>& operands, torch::jit::Stack* stack) {
  const auto& planned = plan_->nodes()[node];
  const auto count = op.schema().returns().size();
  size_t number = 0;
  change_tensors(stack->data() + (stack->size() - count), count,
                 [&](const at::Tensor& tensor) -> at::Tensor {
                   const auto i = number++;
                   if (i >= planned.results.size() || !fits(tensor, planned.results[i]))
                     fail(c10::str("call ", node, ", ", planned.op, ", gave ",
                                   type_of(tensor, device_type_), " as result ", i));
                   const auto& value = plan_->graph().values[planned.results[i]];
                   const bool is_written =
                       std::any_of(operands.begin(), operands.end(), [&](const auto& operand) {
                         return operand.is_written && operand.tensor.is_same(tensor);
                       });
                   if (!is_planned(value) || is_written || dtype_of(node) != c10::kFloat ||
                       tensor.scalar_type() == c10::kFloat)
                     return {};
                   return tensor.to(c10::kFloat);
                 });
  for (const auto& operand : operands) {
    if (!operand.is_written || !operand.tensor.has_storage()) continue;
    const auto& storage = operand.tensor.storage();
    std::erase_if(casts_, [&](const auto& entry) {
      const auto of = entry.second.of.lock();
      return !of || (of->has_storage() && of->storage().is_alias_of(storage));
    });
  }
}

at::Tensor PlannedRun::cast(const at::Tensor& tensor, c10::ScalarType dtype) {
  if (dtype != c10::kFloat) {
    const auto stand_in = offered_stand_ins();
    if (stand_in != nullptr && tensor.scalar_type() == c10::kFloat) {
      if (auto copy = stand_in(tensor, device_type_); copy.defined()) return copy;
    }
  }
  const auto* key = tensor.unsafeGetTensorImpl();
  const auto found = casts_.find(key);
  if (found != casts_.end()) {
    const auto& known = found->second;
    const bool can_be_used = !known.tensor.is_inference() || c10::InferenceMode::is_enabled();
    if (can_be_used && known.version == version_of(tensor) && known.tensor.scalar_type() == dtype)
      return known.tensor;
    casts_.erase(found);
  }
  std::erase_if(casts_, [](const auto& entry) { return entry.second.of.expired(); });
  // With a gradient even where the first use needs none: a later one may.
  std::optional<at::AutoGradMode> grad_mode;
  if (!c10::InferenceMode::is_enabled()) grad_mode.emplace(true);
  auto result = tensor.to(dtype);
  casts_.emplace(key,
                 Cast{decltype(Cast::of)(tensor.getIntrusivePtr()), version_of(tensor), result});
  return result;
}

void PlannedRun::begin_backward() {
  const std::lock_guard lock(mutex_);
  casts_.clear();
}

void PlannedRun::finish(std::vector<at::Tensor>& outputs) {
  if (!error_.empty()) throw PlanMismatch(error_);
  if (next_ != calls_)
    fail(c10::str("it ended before call ", next_, ", ", plan_->nodes()[next_].op));
  for (auto& output : outputs) {
    if (!output.defined() || !output.is_floating_point()) continue;
    if (next_ == plan_->nodes().size() || plan_->nodes()[next_].op != "output" ||
        !fits(output, plan_->nodes()[next_].operands.front().value))
      fail("it returned more tensors, or such of another dtype");
    const auto node = next_++;
    const auto& value = plan_->graph().values[plan_->nodes()[node].operands.front().value];
    if (is_planned(value)) output = cast(output, dtype_of(node));
  }
  if (next_ < plan_->nodes().size() && plan_->nodes()[next_].op == "output")
    fail("it returned fewer tensors");
}

}  // namespace halfstep::detail
