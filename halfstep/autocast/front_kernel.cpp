#include "halfstep/autocast/front_kernel.h"

#include <mutex>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

namespace halfstep::detail {

namespace {

class Registered final : public c10::OperatorKernel {
 public:
  Registered(std::unique_ptr<FrontKernel> front, c10::SafeKernelFunction stock)
      : front_(std::move(front)), stock_(std::move(stock)) {}

  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                  torch::jit::Stack* stack) {
    front_->call(op, keys, stack, stock_);
  }

 private:
  std::unique_ptr<FrontKernel> front_;
  c10::SafeKernelFunction stock_;
};

/// LibTorch warns when a kernel is overridden, which is meant here: the stock one still runs.
class Silence final : public c10::WarningHandler {
 public:
  void process(const c10::Warning&) override {}
};

}  // namespace

void put_in_front(const c10::OperatorHandle& op, c10::DispatchKey key,
                  std::unique_ptr<FrontKernel> kernel) {
  put_in_front(op, key,
               c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<Registered>(
                   std::move(kernel), op.getComputedKernelForDispatchKey(key))));
}

void put_in_front(const c10::OperatorHandle& op, c10::DispatchKey key, c10::KernelFunction kernel) {
  static std::mutex mutex;
  // Never destroyed: taking a kernel away while the process ends helps nobody.
  static auto& handles = *new std::vector<c10::RegistrationHandleRAII>();
  const std::lock_guard lock(mutex);
  Silence silent;
  const c10::WarningUtils::WarningHandlerGuard no_override_warning(&silent);
  handles.push_back(c10::Dispatcher::singleton().registerImpl(
      op.operator_name(), key, std::move(kernel), std::nullopt, nullptr, "halfstep"));
}

}  // namespace halfstep::detail
