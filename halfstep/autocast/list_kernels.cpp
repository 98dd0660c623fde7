#include "halfstep/autocast/list_kernels.h"

#include "halfstep/autocast/op_names.h"
#include "halfstep/autocast/policy_region.h"

#include <string>
#include <utility>

#include <ATen/autocast_mode.h>
#include <ATen/ops/cat_ops.h>
#include <ATen/ops/stack_ops.h>

namespace halfstep::detail {

namespace {

/// One of the two ops, whose lists are of type `List`.
template <c10::DeviceType device_type, class Op, class List>
class ListKernel final : public c10::OperatorKernel {
  using Call = at::Tensor(List, int64_t);
  using Stock = typename at::autocast::WrapFunction<at::autocast::CastPolicy::promote, device_type,
                                                    Call, Call, &Op::call>::type;

 public:
  ListKernel(const c10::OperatorHandle& op, c10::SafeKernelFunction stock,
             std::unique_ptr<FrontKernel> front)
      : op_(op), stock_(std::move(stock)), front_(std::move(front)) {}

  at::Tensor operator()(c10::DispatchKeySet keys, List tensors, int64_t dim) {
    if (PolicyRegion::current(device_type) == nullptr) return Stock::call(tensors, dim);
    torch::jit::Stack stack;
    stack.reserve(2);
    stack.emplace_back(tensors);
    stack.emplace_back(dim);
    front_->call(op_, keys, &stack, stock_);
    return std::move(stack.back()).toTensor();
  }

 private:
  c10::OperatorHandle op_;
  c10::SafeKernelFunction stock_;
  std::unique_ptr<FrontKernel> front_;
};

template <c10::DeviceType device_type>
std::optional<c10::KernelFunction> make(const c10::OperatorHandle& op,
                                        std::unique_ptr<FrontKernel>& front) {
  const auto name = op_name(op.operator_name());
  const auto key = at::autocast::get_autocast_dispatch_key_from_device_type(device_type);
  const auto wrap = [&]<class Op, class List>() {
    using Kernel = ListKernel<device_type, Op, List>;
    return c10::KernelFunction::makeFromUnboxedFunctor<false, Kernel>(
        std::make_unique<Kernel>(op, op.getComputedKernelForDispatchKey(key), std::move(front)));
  };
  if (name == "cat") return wrap.template operator()<at::_ops::cat, const at::ITensorListRef&>();
  if (name == "stack") return wrap.template operator()<at::_ops::stack, at::TensorList>();
  return std::nullopt;
}

}  // namespace

std::optional<c10::KernelFunction> make_list_kernel(const c10::OperatorHandle& op,
                                                    c10::DeviceType device_type,
                                                    std::unique_ptr<FrontKernel>& front) {
  if (device_type == c10::kCPU) return make<c10::kCPU>(op, front);
  if (device_type == c10::kCUDA) return make<c10::kCUDA>(op, front);
  return std::nullopt;
}

}  // namespace halfstep::detail
