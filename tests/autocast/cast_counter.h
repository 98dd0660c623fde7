#pragma once
#include <atomic>

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

namespace halfstep::testing {

/// Counts, while it lives, how often a tensor is converted to another dtype, on whatever thread.
/// One at a time.
class CastCounter {
 public:
  explicit CastCounter(const at::Tensor& tensor) {
    watched_ = tensor.unsafeGetTensorImpl();
    count_ = 0;
    handle_ = at::addGlobalCallback(
        at::RecordFunctionCallback(&on_op).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  }
  ~CastCounter() { at::removeCallback(handle_); }
  CastCounter(const CastCounter&) = delete;
  CastCounter& operator=(const CastCounter&) = delete;

  int count() const { return count_; }

 private:
  static std::unique_ptr<at::ObserverContext> on_op(const at::RecordFunction& call) {
    if (std::string_view(call.name()) == "aten::_to_copy" &&
        call.inputs()[0].toTensor().unsafeGetTensorImpl() == watched_)
      ++count_;
    return nullptr;
  }

  inline static std::atomic<const void*> watched_ = nullptr;
  inline static std::atomic<int> count_ = 0;
  at::CallbackHandle handle_;
};

}  // namespace halfstep::testing
