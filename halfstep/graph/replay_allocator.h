#pragma once
#include <cstddef>
#include <memory>

#include <c10/core/Allocator.h>

namespace halfstep::detail {

/// Somebody who gives a thread's tensors their memory on the CPU.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  /// `bytes` is above 0. `stock` is the allocator that would be asked otherwise.
  virtual c10::DataPtr allocate(size_t bytes, c10::Allocator& stock) = 0;
};

/// While it lives, memory on the CPU that the calling thread asks LibTorch for comes from `source`.
/// The first one puts an allocator of ours before the one that LibTorch had, which still serves
/// everybody else.
class MemorySourceGuard {
 public:
  explicit MemorySourceGuard(MemorySource& source);
  ~MemorySourceGuard();
  MemorySourceGuard(const MemorySourceGuard&) = delete;
  MemorySourceGuard& operator=(const MemorySourceGuard&) = delete;

 private:
  MemorySource* before_;
};

/// Whoever made a block, and is told when nobody uses it any more, on any thread.
class BlockOwner {
 public:
  virtual ~BlockOwner() = default;
  virtual void released(size_t index) noexcept = 0;
};

/// What lies before a block's first byte. Blocks begin at multiples of this.
constexpr size_t kBlockHeader = 64;

/// Memory as a tensor holds it: the block that begins kBlockHeader bytes after `start`. It keeps
/// `owner` alive.
c10::DataPtr make_block(void* start, std::shared_ptr<BlockOwner> owner, size_t index);

/// Memory that blocks are made in. While it lives, c10's raw_deallocate knows them for ours.
class BlockMemory {
 public:
  BlockMemory(size_t bytes, c10::Allocator& stock);
  ~BlockMemory();
  BlockMemory(const BlockMemory&) = delete;
  BlockMemory& operator=(const BlockMemory&) = delete;
  char* start() const { return static_cast<char*>(memory_.get()); }

 private:
  c10::DataPtr memory_;
};

}  // namespace halfstep::detail
