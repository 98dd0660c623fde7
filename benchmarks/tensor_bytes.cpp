#include "benchmarks/tensor_bytes.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

namespace {

// Hands out the memory of LibTorch's own allocator, as it comes: oneDNN asks for the plain pointer
// (raw_allocate), and may return one that was allocated while nothing was counted.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    auto data = base_->allocate(size);
    void* const pointer = data.get();
    if (pointer == nullptr) return data;
    {
      const std::lock_guard lock(mutex_);
      const auto bytes = static_cast<int64_t>(size);
      auto& entry = sizes_[pointer];
      now_ += bytes - entry;  // not 0: it was freed unseen, through the other allocator
      entry = bytes;
      peak_ = std::max(peak_, now_);
    }
    data.release_context();
    return {pointer, pointer, &release, data.device()};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t size) const override {
    base_->copy_data(to, from, size);
  }

  static CountingAllocator& instance() {
    static auto* const allocator = new CountingAllocator();  // tensors keep pointers to it
    return *allocator;
  }

  c10::Allocator* base() const { return base_; }

  int64_t now() {
    const std::lock_guard lock(mutex_);
    return now_;
  }

  int64_t peak() {
    const std::lock_guard lock(mutex_);
    return peak_;
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = now_;
  }

 private:
  CountingAllocator() : base_(c10::GetCPUAllocator()) {}

  static void release(void* pointer) {
    auto& self = instance();
    {
      const std::lock_guard lock(self.mutex_);
      const auto found = self.sizes_.find(pointer);
      if (found != self.sizes_.end()) {
        self.now_ -= found->second;
        self.sizes_.erase(found);
      }
    }
    self.base_->raw_deleter()(pointer);
  }

  c10::Allocator* base_;
  std::mutex mutex_;
  std::unordered_map<void*, int64_t> sizes_;
  int64_t now_ = 0;
  int64_t peak_ = 0;
};

}  // namespace

void tensor_bytes_start() {
  auto& allocator = CountingAllocator::instance();
  c10::SetCPUAllocator(&allocator);
  allocator.reset_peak();
}

int64_t tensor_bytes_now() {
  return CountingAllocator::instance().now();
}

void tensor_bytes_reset_peak() {
  CountingAllocator::instance().reset_peak();
}

int64_t tensor_bytes_peak() {
  return CountingAllocator::instance().peak();
}

void tensor_bytes_stop() {
  c10::SetCPUAllocator(CountingAllocator::instance().base());
}
