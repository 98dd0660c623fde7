#include "halfstep/graph/replay_allocator.h"

#include <map>
#include <mutex>
#include <new>
#include <utility>

#include <c10/core/CPUAllocator.h>

namespace halfstep::detail {

namespace {

thread_local MemorySource* current = nullptr;

struct Header {
  std::shared_ptr<BlockOwner> owner;
  size_t index;
};
static_assert(sizeof(Header) <= kBlockHeader);

void release_block(void* data) {
  auto* header = std::launder(reinterpret_cast<Header*>(static_cast<char*>(data) - kBlockHeader));
  const Header taken = std::move(*header);
  header->~Header();
  taken.owner->released(taken.index);
}

/// Where all BlockMemory lies. Never destroyed: tensors may outlive all else.
class Ranges {
 public:
  void add(const char* begin, size_t bytes) {
    const std::lock_guard lock(mutex_);
    ends_[begin] = begin + bytes;
  }
  void remove(const char* begin) {
    const std::lock_guard lock(mutex_);
    ends_.erase(begin);
  }
  bool hold(const char* data) {
    const std::lock_guard lock(mutex_);
    auto after = ends_.upper_bound(data);
    return after != ends_.begin() && data < std::prev(after)->second;
  }

 private:
  std::mutex mutex_;
  std::map<const char*, const char*> ends_;
};

Ranges& ranges() {
  static auto* const all = new Ranges;
  return *all;
}

class ReplayAllocator final : public c10::Allocator {
 public:
  explicit ReplayAllocator(c10::Allocator& stock) : stock_(stock) {}

  c10::DataPtr allocate(size_t bytes) override {
    return current != nullptr && bytes > 0 ? current->allocate(bytes, stock_)
                                           : stock_.allocate(bytes);
  }
  // A block's context is its first byte, as c10 wants it of allocators with a raw deleter.
  c10::DeleterFnPtr raw_deleter() const override { return raw_delete; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    stock_.copy_data(to, from, bytes);
  }
  bool is_simple_data_ptr(const c10::DataPtr& data) const override {
    return stock_.is_simple_data_ptr(data);
  }

  static ReplayAllocator& install() {
    // At a priority that whoever sets an allocator of his own later goes before.
    static auto* const installed = [] {
      auto* allocator = new ReplayAllocator(*c10::GetCPUAllocator());
      c10::SetCPUAllocator(allocator);
      return allocator;
    }();
    return *installed;
  }

 private:
  static void raw_delete(void* data) {
    if (ranges().hold(static_cast<const char*>(data)))
      release_block(data);
    else
      install().stock_.raw_deallocate(data);
  }

  c10::Allocator& stock_;
};

}  // namespace

MemorySourceGuard::MemorySourceGuard(MemorySource& source) : before_(current) {
  ReplayAllocator::install();
  current = &source;
}

MemorySourceGuard::~MemorySourceGuard() {
  current = before_;
}

c10::DataPtr make_block(void* start, std::shared_ptr<BlockOwner> owner, size_t index) {
  new (start) Header{std::move(owner), index};
  void* data = static_cast<char*>(start) + kBlockHeader;
  return {data, data, release_block, c10::Device(c10::kCPU)};
}

BlockMemory::BlockMemory(size_t bytes, c10::Allocator& stock) : memory_(stock.allocate(bytes)) {
  ranges().add(start(), bytes);
}

BlockMemory::~BlockMemory() {
  ranges().remove(start());
}

}  // namespace halfstep::detail
