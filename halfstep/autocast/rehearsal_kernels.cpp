#include "halfstep/autocast/rehearsal_kernels.h"

#include "halfstep/autocast/front_kernel.h"
#include "halfstep/autocast/half_rehearsal.h"

#include <atomic>
#include <mutex>
#include <string_view>

#include <ATen/EmptyTensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

namespace halfstep::detail {

namespace {

struct Operation {
  const char* name;
  const char* overload = "";
  bool differentiable = true;
};

// Not linear or _softmax: a kernel for a composite op takes its derivative away. Those that write
// have kernels of their own, because einsum, conv_tbc and others call them.
constexpr Operation kOperations[] = {
    {"aten::mm"},
    {"aten::mm", "out", false},
    {"aten::addmm"},
    {"aten::addmm", "out", false},
    {"aten::addmm_"},
    {"aten::bmm"},
    {"aten::bmm", "out", false},
    {"aten::baddbmm"},
    {"aten::baddbmm", "out", false},
    {"aten::baddbmm_"},
    {"aten::convolution"},
    {"aten::convolution_backward"},
    {"aten::_scaled_dot_product_flash_attention_for_cpu"},
    {"aten::_scaled_dot_product_flash_attention_for_cpu_backward", "", false},
    // What an LSTM is under autocast; LibTorch has no float16 training of it.
    {"aten::mkldnn_rnn_layer"},
    {"aten::mkldnn_rnn_layer_backward", "", false},
};

std::atomic<int64_t> operations = 0;

/// Stays at the autograd node of a rehearsed op: its backward is rehearsed as well.
class Mark final : public torch::autograd::FunctionPreHook {
 public:
  torch::autograd::variable_list operator()(
      const torch::autograd::variable_list& gradients) override {
    return gradients;
  }
};

bool is_marked(torch::autograd::Node& node) {
  for (const auto& hook : node.pre_hooks()) {
    if (dynamic_cast<const Mark*>(hook.get())) return true;
  }
  return false;
}

bool rehearses_here() {
  if (HalfRehearsal::is_enabled()) return true;
  const auto node = torch::autograd::get_current_node();
  return node && is_marked(*node);
}

bool is_half(const c10::IValue& value) {
  return value.toTensor().scalar_type() == c10::kHalf;
}

bool holds_tensor(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().defined();
}

/// Float32 in LibTorch's own kernels too.
bool may_be_float32(const c10::Argument& argument) {
  return argument.name() == "logsumexp" || argument.name() == "attn_mask";
}

/// Whether these are the arguments of a float16 op. What LibTorch refuses is its to refuse.
bool all_half(const std::vector<c10::Argument>& arguments, const c10::IValue* values) {
  if (!holds_tensor(values[0]) || !is_half(values[0])) return false;
  for (size_t i = 1; i < arguments.size(); ++i) {
    if (holds_tensor(values[i]) && values[i].toTensor().is_floating_point() &&
        !is_half(values[i]) && !may_be_float32(arguments[i]))
      return false;
  }
  return true;
}

/// Which argument the op writes into; the end where none.
size_t written_argument(const std::vector<c10::Argument>& arguments) {
  size_t i = 0;
  while (i < arguments.size() &&
         !(arguments[i].alias_info() && arguments[i].alias_info()->isWrite()))
    ++i;
  return i;
}

/// As `from.to(dtype)`, past the dispatcher: a small network's step makes twenty such casts.
at::Tensor cast(const at::Tensor& from, c10::ScalarType dtype) {
  if (!from.is_non_overlapping_and_dense()) return from.to(dtype);
  at::Tensor result = at::detail::empty_strided_cpu(from.sizes(), from.strides(), dtype);
  at::native::copy_(result, from);
  return result;
}

class RehearsedKernel final : public FrontKernel {
 public:
  void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack,
            const c10::SafeKernelFunction& stock) override {
    const auto& arguments = op.schema().arguments();
    auto* values = stack->data() + stack->size() - arguments.size();
    if (!all_half(arguments, values) || !rehearses_here()) {
      stock.callBoxed(op, keys, stack);
      return;
    }
    operations.fetch_add(1, std::memory_order_relaxed);
    const size_t written = written_argument(arguments);
    const auto target = written < arguments.size() ? values[written].toTensor() : at::Tensor();
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (!holds_tensor(values[i]) || !is_half(values[i])) continue;
      const auto& half = values[i].toTensor();
      const bool is_out = i == written && arguments[i].is_out();
      values[i] =
          is_out ? at::empty({0}, half.options().dtype(c10::kFloat)) : cast(half, c10::kFloat);
    }
    stock.callBoxed(op, keys, stack);
    round_results(op.schema().returns(), target, *stack);
  }

 private:
  static void round_results(const std::vector<c10::Argument>& returns, const at::Tensor& target,
                            torch::jit::Stack& stack) {
    auto* results = stack.data() + stack.size() - returns.size();
    if (target.defined()) {
      const auto computed = results[0].toTensor();
      at::native::resize_output(target, computed.sizes());
      target.copy_(computed);
      results[0] = target;
      return;
    }
    for (size_t i = 0; i < returns.size(); ++i) {
      if (holds_tensor(results[i]) && results[i].toTensor().is_floating_point() &&
          !may_be_float32(returns[i]))
        results[i] = cast(results[i].toTensor(), c10::kHalf);
    }
  }
};

/// Marks the nodes that LibTorch's autograd kernel makes for rehearsed ops.
class MarkingKernel final : public FrontKernel {
 public:
  void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack,
            const c10::SafeKernelFunction& stock) override {
    const auto& first = torch::jit::peek(*stack, 0, op.schema().arguments().size());
    const bool marks =
        holds_tensor(first) && is_half(first) && at::GradMode::is_enabled() && rehearses_here();
    stock.callBoxed(op, keys, stack);
    if (!marks) return;
    for (const auto& result : torch::jit::last(*stack, op.schema().returns().size())) {
      if (!holds_tensor(result)) continue;
      const auto& tensor = result.toTensor();
      // The node that computes in place on a view is its base's.
      const auto node = written_argument(op.schema().arguments()) == 0 && tensor.is_view()
                            ? tensor._base().grad_fn()
                            : tensor.grad_fn();
      if (node && !is_marked(*node)) node->add_pre_hook(std::make_unique<Mark>());
    }
  }
};

}  // namespace

void register_rehearsal_kernels() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (const auto& operation : kOperations) {
      const auto op =
          c10::Dispatcher::singleton().findSchemaOrThrow(operation.name, operation.overload);
      put_in_front(op, c10::DispatchKey::CPU, std::make_unique<RehearsedKernel>());
      if (operation.differentiable)
        put_in_front(op, c10::DispatchKey::AutogradCPU, std::make_unique<MarkingKernel>());
    }
  });
}

int64_t rehearsed_operations() {
  return operations;
}

}  // namespace halfstep::detail
