#include "halfstep/graph/replay_memory.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <mutex>
#include <unordered_set>
#include <utility>

namespace halfstep::detail {

namespace {

// A first run may set up what later ones find; a program that still changes is left alone.
constexpr int kMostTraces = 4;

std::unordered_set<const void*> memory_of(const std::vector<at::Tensor>& tensors) {
  std::unordered_set<const void*> memory;
  for (const auto& tensor : tensors) {
    if (tensor.defined() && tensor.has_storage()) memory.insert(tensor.storage().data());
  }
  return memory;
}

}  // namespace

/// The blocks of a run that is watched.
class ReplayMemory::Trace final : public BlockOwner {
 public:
  size_t add(size_t bytes, c10::Allocator& stock) {
    const std::lock_guard lock(mutex_);
    const auto index = uses_.size();
    uses_.push_back({bytes + kBlockHeader, int64_t(index), -1});
    memories_.push_back(std::make_unique<BlockMemory>(bytes + kBlockHeader, stock));
    return index;
  }
  char* start(size_t index) {
    const std::lock_guard lock(mutex_);
    return memories_[index]->start();
  }
  void released(size_t index) noexcept override {
    const std::lock_guard lock(mutex_);
    uses_[index].freed = int64_t(uses_.size());
    memories_[index].reset();
  }
  std::vector<MemoryUse> uses() {
    const std::lock_guard lock(mutex_);
    return uses_;
  }

 private:
  std::mutex mutex_;
  std::vector<MemoryUse> uses_;
  std::vector<std::unique_ptr<BlockMemory>> memories_;
};

/// The block that planned pieces lie in.
class ReplayMemory::Arena final : public BlockOwner {
 public:
  Arena(size_t bytes, size_t pieces, c10::Allocator& stock)
      : memory_(bytes, stock), held_(pieces) {}

  char* start() const { return memory_.start(); }
  bool is_held(size_t piece) const { return held_[piece].load(std::memory_order_acquire); }
  void take(size_t piece) { held_[piece].store(true, std::memory_order_relaxed); }
  void released(size_t piece) noexcept override {
    held_[piece].store(false, std::memory_order_release);
  }
  bool any_held() const {
    return std::any_of(held_.begin(), held_.end(), [](const auto& held) { return held.load(); });
  }
  bool any_held(const std::vector<size_t>& pieces) const {
    return std::any_of(pieces.begin(), pieces.end(), [&](size_t piece) { return is_held(piece); });
  }

 private:
  BlockMemory memory_;
  std::vector<std::atomic<bool>> held_;
};

/// Memory of an output or gradient.
class ReplayMemory::Kept final : public BlockOwner {
 public:
  Kept(size_t bytes, c10::Allocator& stock) : memory_(bytes + kBlockHeader, stock) {}
  char* start() const { return memory_.start(); }
  bool is_held() const { return held_.load(std::memory_order_acquire); }
  void take() { held_.store(true, std::memory_order_relaxed); }
  void released(size_t /*index*/) noexcept override {
    held_.store(false, std::memory_order_release);
  }

 private:
  BlockMemory memory_;
  std::atomic<bool> held_ = false;
};

ReplayMemory::ReplayMemory() = default;
ReplayMemory::~ReplayMemory() = default;

ReplayMemory::Run::Run(ReplayMemory& memory) : memory_(memory), guard_(memory) {
  if (memory.arena_ && memory.arena_->any_held()) {
    memory.drop_plan();
    memory.gradients_stay_ = true;
  }
  memory.next_ = 0;
  memory.follows_ = !memory.requests_.empty();
  if (memory.requests_.empty() && memory.traces_ < kMostTraces) {
    memory.trace_ = std::make_shared<Trace>();
    ++memory.traces_;
  }
}

ReplayMemory::Run::~Run() {
  if (ended_) return;
  memory_.trace_.reset();
  memory_.drop_plan();
}

void ReplayMemory::Run::end(const std::vector<at::Tensor>& outputs,
                            const std::vector<at::Tensor>& gradients) {
  ended_ = true;
  if (memory_.trace_) {
    memory_.make_plan(outputs, gradients);
    memory_.trace_.reset();
  } else if (!memory_.requests_.empty()) {
    // Somebody keeps what was let go of when it was watched: the arena is theirs now.
    const bool kept = memory_.arena_ && memory_.arena_->any_held(memory_.let_go_);
    if (!memory_.follows_ || memory_.next_ != memory_.requests_.size() || kept) memory_.drop_plan();
  }
}

c10::DataPtr ReplayMemory::allocate(size_t bytes, c10::Allocator& stock) {
  if (trace_) {
    const auto index = trace_->add(bytes, stock);
    return make_block(trace_->start(index), trace_, index);
  }
  follows_ = follows_ && next_ < requests_.size() && requests_[next_].bytes == bytes;
  if (!follows_) return stock.allocate(bytes);
  const auto& request = requests_[next_++];
  switch (request.from) {
    case Request::From::stock:
      return stock.allocate(bytes);
    case Request::From::kept:
      return allocate_kept(request.index, bytes, stock);
    case Request::From::arena:
      break;
  }
  if (!arena_) arena_ = std::make_shared<Arena>(plan_.bytes, plan_.offsets.size(), stock);
  for (const auto earlier : plan_.predecessors[request.index]) {
    if (arena_->is_held(earlier)) return stock.allocate(bytes);
  }
  arena_->take(request.index);
  return make_block(arena_->start() + plan_.offsets[request.index], arena_, request.index);
}

c10::DataPtr ReplayMemory::allocate_kept(size_t index, size_t bytes, c10::Allocator& stock) {
  // Two: with gradient accumulation one is added to while the next is made.
  constexpr size_t most = 2;
  auto& blocks = kept_[index];
  auto free = std::find_if(blocks.begin(), blocks.end(),
                           [](const auto& block) { return !block->is_held(); });
  if (free == blocks.end()) {
    if (blocks.size() == most) blocks.erase(blocks.begin());
    free = blocks.insert(blocks.end(), std::make_shared<Kept>(bytes, stock));
  }
  (*free)->take();
  return make_block((*free)->start(), *free, 0);
}

void ReplayMemory::make_plan(const std::vector<at::Tensor>& outputs,
                             const std::vector<at::Tensor>& gradients) {
  const auto uses = trace_->uses();
  const auto in_outputs = memory_of(outputs), in_gradients = memory_of(gradients);
  std::vector<MemoryUse> planned;
  for (size_t i = 0; i < uses.size(); ++i) {
    auto use = uses[i];
    Request request{Request::From::stock, use.bytes - kBlockHeader, 0};
    const bool let_go = use.freed >= 0;
    const auto* data = let_go ? nullptr : trace_->start(i) + kBlockHeader;
    const bool gradient = in_gradients.count(data) != 0 && in_outputs.count(data) == 0;
    if (let_go || (gradient && !gradients_stay_)) {
      request.from = Request::From::arena;
      request.index = planned.size();
      if (let_go)
        let_go_.push_back(planned.size());
      else
        use.freed = int64_t(uses.size());
      planned.push_back(use);
    } else if (gradient || in_outputs.count(data) != 0) {
      request.from = Request::From::kept;
      request.index = kept_.size();
      kept_.emplace_back();
      kept_bytes_ += request.bytes;
    }
    requests_.push_back(request);
  }
  plan_ = MemoryPlan::of(planned, kBlockHeader);
}

void ReplayMemory::drop_plan() {
  requests_.clear();
  kept_.clear();
  kept_bytes_ = 0;
  let_go_.clear();
  arena_.reset();
  plan_ = {};
}

std::string ReplayMemory::to_string() const {
  if (!has_plan()) return "";
  constexpr double mebi = 1 << 20;
  std::array<char, 128> text;
  std::snprintf(text.data(), text.size(), "%zu pieces in %.2f MiB, %zu kept ones in %.2f MiB",
                plan_.offsets.size(), double(plan_.bytes) / mebi, kept_.size(),
                double(kept_bytes_) / mebi);
  return text.data();
}

}  // namespace halfstep::detail
