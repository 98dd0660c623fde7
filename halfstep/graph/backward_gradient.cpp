#include "halfstep/graph/backward_gradient.h"

#include <mutex>
#include <utility>

#include <ATen/core/VariableHooksInterface.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace halfstep::detail {

namespace {

thread_local BackwardGradient* innermost = nullptr;

using at::Tensor;
using at::TensorBase;
using Interface = at::impl::VariableHooksInterface;

/// LibTorch's hooks between Tensor and autograd, but for `_backward`.
class Hooks final : public Interface {
 public:
  explicit Hooks(const Interface& libtorchs) : next_(libtorchs) {}

  void _backward(const Tensor& self, at::TensorList inputs, const std::optional<Tensor>& gradient,
                 std::optional<bool> keep_graph, bool create_graph) const override {
    if (innermost == nullptr)
      return next_._backward(self, inputs, gradient, keep_graph, create_graph);
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const c10::impl::ExcludeDispatchKeyGuard no_plan(c10::DispatchKey::DeferredInit);
    const bool given = gradient && gradient->defined();
    next_._backward(self, inputs, given ? gradient : innermost->start_of(self), keep_graph,
                    create_graph);
  }

  TensorBase tensor_data(const TensorBase& t) const override { return next_.tensor_data(t); }
  TensorBase variable_data(const TensorBase& t) const override { return next_.variable_data(t); }
  decltype(std::declval<const Interface&>().grad_fn(std::declval<TensorBase>())) grad_fn(
      const TensorBase& t) const override {
    return next_.grad_fn(t);
  }
  unsigned _register_hook(const TensorBase& t,
                          std::function<TensorBase(const TensorBase&)> hook) const override {
    return next_._register_hook(t, std::move(hook));
  }
  void remove_hook(const TensorBase& t, unsigned position) const override {
    next_.remove_hook(t, position);
  }
  bool is_view(const TensorBase& t) const override { return next_.is_view(t); }
  const TensorBase& base(const TensorBase& t) const override { return next_.base(t); }
  const std::string& name(const TensorBase& t) const override { return next_.name(t); }
  bool is_leaf(const TensorBase& t) const override { return next_.is_leaf(t); }
  int64_t output_nr(const TensorBase& t) const override { return next_.output_nr(t); }
  void set_data(const TensorBase& t, const TensorBase& data) const override {
    next_.set_data(t, data);
  }
  TensorBase data(const TensorBase& t) const override { return next_.data(t); }
  int64_t _version(const TensorBase& t) const override { return next_._version(t); }
  void retain_grad(const TensorBase& t) const override { next_.retain_grad(t); }
  bool retains_grad(const TensorBase& t) const override { return next_.retains_grad(t); }
  void requires_grad_(const TensorBase& t, bool value) const override {
    next_.requires_grad_(t, value);
  }
  void basic_autograd_not_implemented_fallback(const c10::OperatorHandle& op,
                                               c10::DispatchKeySet keys,
                                               torch::jit::Stack* stack) const override {
    next_.basic_autograd_not_implemented_fallback(op, keys, stack);
  }
  std::optional<c10::ScalarType> grad_dtype(const TensorBase& t) const override {
    return next_.grad_dtype(t);
  }
  void set_grad_dtype(const TensorBase& t,
                      const std::optional<c10::ScalarType>& dtype) const override {
    next_.set_grad_dtype(t, dtype);
  }

 private:
  const Interface& next_;
};

void install() {
  // For the life of the process: a pointer that other threads read without a lock.
  static std::once_flag once;
  std::call_once(once, [] {
    static auto& hooks = *new Hooks(*at::impl::GetVariableHooks());
    at::impl::SetVariableHooks(&hooks);
  });
}

}  // namespace

BackwardGradient::BackwardGradient(Start start) : start_(std::move(start)), outer_(innermost) {
  install();
  innermost = this;
}

BackwardGradient::~BackwardGradient() {
  innermost = outer_;
}

at::Tensor BackwardGradient::start_of(const at::Tensor& loss) {
  ++uses_;
  return start_(loss);
}

}  // namespace halfstep::detail
