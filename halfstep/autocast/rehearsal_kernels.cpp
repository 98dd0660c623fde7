#include "halfstep/autocast/rehearsal_kernels.h"

#include "halfstep/autocast/front_kernel.h"
#include "halfstep/autocast/half_rehearsal.h"

#include <array>
#include <atomic>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

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
    {"aten::_addmm_activation", "", false},
    {"aten::_addmm_activation", "out", false},
    {"aten::bmm"},
    {"aten::bmm", "out", false},
    {"aten::baddbmm"},
    {"aten::baddbmm", "out", false},
    {"aten::baddbmm_"},
    {"aten::mv"},
    {"aten::mv", "out", false},
    {"aten::addmv"},
    {"aten::addmv", "out", false},
    {"aten::addmv_"},
    {"aten::dot"},
    {"aten::dot", "out", false},
    {"aten::vdot"},
    {"aten::vdot", "out", false},
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

/// An `out` to compute into: in the layout of the user's, as that may change the last bit.
at::Tensor empty_float(const at::Tensor& half) {
  if (!half.is_non_overlapping_and_dense())
    return at::empty({0}, half.options().dtype(c10::kFloat));
  return at::detail::empty_strided_cpu(half.sizes(), half.strides(), c10::kFloat);
}

/// Float32 memory for the arguments of a call, kept for the thread's next one: to get it from the
/// system each time costs a small network as much as the casts. At most 40 MiB a thread.
class Scratch {
 public:
  /// `half` in float32, for as long as the call runs.
  at::Tensor cast_up(const at::Tensor& half, size_t argument) {
    const auto bytes = static_cast<size_t>(half.numel()) * sizeof(float);
    if (argument >= slots_.size() || bytes == 0 || bytes > kLargest ||
        !half.is_non_overlapping_and_dense())
      return cast(half, c10::kFloat);
    auto& slot = slots_[argument];
    // Somebody may have kept what he was given.
    if (!slot || slot.use_count() != 1 || slot.nbytes() < bytes)
      slot = at::detail::empty_cpu({half.numel()}, c10::kFloat).storage();
    auto result = make_float(slot);
    result.unsafeGetTensorImpl()->set_sizes_and_strides(half.sizes(), half.strides());
    at::native::copy_(result, half);
    return result;
  }

  /// An empty tensor for a float32 result, to be resized.
  at::Tensor result() {
    if (!result_ || result_.use_count() != 1 || result_.nbytes() > kLargest)
      result_ = at::detail::empty_cpu({0}, c10::kFloat).storage();
    auto empty = make_float(result_);
    empty.unsafeGetTensorImpl()->set_sizes_contiguous({0});
    return empty;
  }

 private:
  static at::Tensor make_float(const c10::Storage& memory) {
    return at::detail::make_tensor<c10::TensorImpl>(c10::Storage(memory),
                                                    c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                    caffe2::TypeMeta::Make<float>());
  }

  static constexpr size_t kLargest = 8 << 20;
  std::array<c10::Storage, 4> slots_;
  c10::Storage result_;
};

class RehearsedKernel final : public FrontKernel {
 public:
  /// `into`: LibTorch's kernel of the op that writes the same result into one more argument, if
  /// any.
  RehearsedKernel(const c10::FunctionSchema& schema, std::optional<c10::SafeKernelFunction> into)
      : into_(std::move(into)),
        arguments_(schema.arguments().size()),
        written_(written_argument(schema.arguments())),
        writes_out_(written_ < arguments_ && schema.arguments()[written_].is_out()) {
    for (const auto& argument : schema.arguments())
      may_be_float32_.push_back(may_be_float32(argument));
    for (const auto& result : schema.returns()) stays_float32_.push_back(may_be_float32(result));
  }

  void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack,
            const c10::SafeKernelFunction& stock) override {
    auto* values = stack->data() + stack->size() - arguments_;
    if (!all_half(values) || !rehearses_here()) {
      stock.callBoxed(op, keys, stack);
      return;
    }
    operations.fetch_add(1, std::memory_order_relaxed);
    thread_local Scratch scratch;
    const auto target = written_ < arguments_ ? values[written_].toTensor() : at::Tensor();
    for (size_t i = 0; i < arguments_; ++i) {
      if (!holds_tensor(values[i]) || !is_half(values[i])) continue;
      const auto& half = values[i].toTensor();
      const bool is_result = i == written_;
      values[i] = is_result && writes_out_ ? empty_float(half)
                  : is_result              ? cast(half, c10::kFloat)
                                           : scratch.cast_up(half, i);
    }
    if (into_) {
      stack->emplace_back(scratch.result());
      into_->callBoxed(op, keys, stack);
    } else {
      stock.callBoxed(op, keys, stack);
    }
    round_results(target, *stack);
  }

 private:
  /// Whether these are the arguments of a float16 op. What LibTorch refuses is its to refuse.
  bool all_half(const c10::IValue* values) const {
    if (!holds_tensor(values[0]) || !is_half(values[0])) return false;
    for (size_t i = 1; i < arguments_; ++i) {
      if (holds_tensor(values[i]) && values[i].toTensor().is_floating_point() &&
          !is_half(values[i]) && !may_be_float32_[i])
        return false;
    }
    return true;
  }

  void round_results(const at::Tensor& target, torch::jit::Stack& stack) const {
    auto* results = stack.data() + stack.size() - stays_float32_.size();
    if (target.defined()) {
      const auto computed = results[0].toTensor();
      at::native::resize_output(target, computed.sizes());
      target.copy_(computed);
      results[0] = target;
      return;
    }
    for (size_t i = 0; i < stays_float32_.size(); ++i) {
      if (holds_tensor(results[i]) && results[i].toTensor().is_floating_point() &&
          !stays_float32_[i])
        results[i] = cast(results[i].toTensor(), c10::kHalf);
    }
  }

  std::optional<c10::SafeKernelFunction> into_;
  size_t arguments_, written_;
  bool writes_out_;
  std::vector<bool> may_be_float32_, stays_float32_;
};

/// Marks the nodes that LibTorch's autograd kernel makes for rehearsed ops.
class MarkingKernel final : public FrontKernel {
 public:
  explicit MarkingKernel(const c10::FunctionSchema& schema)
      : arguments_(schema.arguments().size()),
        results_(schema.returns().size()),
        in_place_(written_argument(schema.arguments()) == 0) {}

  void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack,
            const c10::SafeKernelFunction& stock) override {
    const auto& first = torch::jit::peek(*stack, 0, arguments_);
    const bool marks =
        holds_tensor(first) && is_half(first) && at::GradMode::is_enabled() && rehearses_here();
    stock.callBoxed(op, keys, stack);
    if (!marks) return;
    for (const auto& result : torch::jit::last(*stack, results_)) {
      if (!holds_tensor(result)) continue;
      const auto& tensor = result.toTensor();
      // The node that computes in place on a view is its base's.
      const auto node = in_place_ && tensor.is_view() ? tensor._base().grad_fn() : tensor.grad_fn();
      if (node && !is_marked(*node)) node->add_pre_hook(std::make_unique<Mark>());
    }
  }

 private:
  size_t arguments_, results_;
  bool in_place_;
};

/// The kernel of `mm.out` for `mm`, and the like.
std::optional<c10::SafeKernelFunction> kernel_into(const Operation& operation) {
  const std::string_view name = operation.name;
  if (*operation.overload != 0 ||
      (name != "aten::mm" && name != "aten::addmm" && name != "aten::bmm"))
    return std::nullopt;
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(operation.name, "out")
      .getComputedKernelForDispatchKey(c10::DispatchKey::CPU);
}

}  // namespace

bool rehearses_here() {
  if (HalfRehearsal::is_enabled()) return true;
  const auto node = torch::autograd::get_current_node();
  return node && is_marked(*node);
}

void register_rehearsal_kernels() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (const auto& operation : kOperations) {
      const auto op =
          c10::Dispatcher::singleton().findSchemaOrThrow(operation.name, operation.overload);
      put_in_front(op, c10::DispatchKey::CPU,
                   std::make_unique<RehearsedKernel>(op.schema(), kernel_into(operation)));
      if (operation.differentiable)
        put_in_front(op, c10::DispatchKey::AutogradCPU,
                     std::make_unique<MarkingKernel>(op.schema()));
    }
  });
}

int64_t rehearsed_operations() {
  return operations;
}

}  // namespace halfstep::detail
