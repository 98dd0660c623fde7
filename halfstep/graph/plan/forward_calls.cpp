#include "halfstep/graph/plan/forward_calls.h"

#include "halfstep/core/libtorch.h"
#include "halfstep/graph/all_ops.h"

#include <utility>

#include <torch/csrc/autograd/graph_task.h>

namespace halfstep::detail {

namespace {

constexpr std::string_view kForwardCallsSlotName = "halfstep::ForwardCalls";
constexpr auto kForwardCallsSlot = debug_info_kind(&kForwardCallsSlotName, 5);
constexpr auto kForwardCallsKey = c10::DispatchKey::DeferredInit;

class ForwardKernel final : public c10::OperatorKernel {
 public:
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                  torch::jit::Stack* stack) {
    auto* calls = ForwardCalls::current();
    if (calls != nullptr && torch::autograd::get_current_graph_task_id() < 0)
      return calls->call(op, stack);
    op.redispatchBoxed(
        keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kForwardCallsKey), stack);
  }
};

std::shared_ptr<ForwardCalls> with_kernels(std::shared_ptr<ForwardCalls> calls) {
  static KernelsOfAllOps kernels(kForwardCallsKey, [] {
    return c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<ForwardKernel>());
  });
  kernels.register_missing();
  return calls;
}

}  // namespace

ForwardCalls* ForwardCalls::current() {
  return static_cast<ForwardCalls*>(c10::ThreadLocalDebugInfo::get(kForwardCallsSlot));
}

ForwardCallsGuard::ForwardCallsGuard(std::shared_ptr<ForwardCalls> calls)
    : entry_("Graph", kForwardCallsSlot, with_kernels(std::move(calls))),
      include_(kForwardCallsKey) {}

}  // namespace halfstep::detail
