#pragma once
#include <memory>

#include <ATen/core/dispatch/Dispatcher.h>

namespace halfstep::detail {

/// A boxed kernel that stands in front of the one LibTorch has for an op and a dispatch key, and
/// may call it.
class FrontKernel {
 public:
  FrontKernel() = default;
  virtual ~FrontKernel() = default;
  FrontKernel(const FrontKernel&) = delete;
  FrontKernel& operator=(const FrontKernel&) = delete;

  /// Takes the op's arguments from the top of the stack and leaves its results there. `stock` is
  /// the kernel behind. Several threads may call at once.
  virtual void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                    torch::jit::Stack* stack, const c10::SafeKernelFunction& stock) = 0;
};

/// Registers `kernel` for the life of the process. It costs every call of the op on that key about
/// 0.1 µs, as arguments are boxed. LibTorch reads its tables of kernels without a lock, so no other
/// thread may run the op meanwhile.
void put_in_front(const c10::OperatorHandle& op, c10::DispatchKey key,
                  std::unique_ptr<FrontKernel> kernel);

/// The same for a kernel of any other kind, which must know what stands behind it.
void put_in_front(const c10::OperatorHandle& op, c10::DispatchKey key, c10::KernelFunction kernel);

}  // namespace halfstep::detail
