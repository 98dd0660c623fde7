#pragma once
#include <atomic>
#include <memory>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

namespace halfstep::testing {

/// Counts, while it lives, how often a tensor is cast to 16 bits, on whatever thread. It knows the
/// tensor by its shape, which must be no other tensor's. One at a time.
class CastCounter {
 public:
  explicit CastCounter(const at::Tensor& tensor) {
    watched_ = tensor.sizes().vec();
    count_ = 0;
    // Inputs can't be asked for: LibTorch's header expects of them what only a debug LibTorch
    // keeps.
    handle_ = at::addGlobalCallback(at::RecordFunctionCallback(&on_start, &on_end)
                                        .needsOutputs(true)
                                        .scopes({at::RecordScope::FUNCTION}));
  }
  ~CastCounter() { at::removeCallback(handle_); }
  CastCounter(const CastCounter&) = delete;
  CastCounter& operator=(const CastCounter&) = delete;

  int count() const { return count_; }

 private:
  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction&) {
    return nullptr;
  }

  static void on_end(const at::RecordFunction& call, at::ObserverContext*) {
    if (std::string_view(call.name()) != "aten::_to_copy" || call.outputs().empty()) return;
    const auto& copy = call.outputs()[0].toTensor();
    const bool low = copy.scalar_type() == at::kHalf || copy.scalar_type() == at::kBFloat16;
    if (low && copy.sizes() == watched_) ++count_;
  }

  inline static std::vector<int64_t> watched_;
  inline static std::atomic<int> count_ = 0;
  at::CallbackHandle handle_;
};

}  // namespace halfstep::testing
