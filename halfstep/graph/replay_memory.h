#pragma once
#include "halfstep/graph/memory_plan.h"
#include "halfstep/graph/replay_allocator.h"

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// The memory plan of a Replay: its first run is watched, and later ones find the memory on the CPU
/// that its ops ask for, their scratch space too, in one block, each piece where it was planned.
/// Gradients lie there too, as long as nobody holds one when the next run begins; else they have
/// blocks of their own from then on, as outputs do, which are used again once nobody holds them.
///
/// A run that asks for other memory than the one that was watched gets it from LibTorch's
/// allocator, and the next run is watched; so does a piece in whose place another one is still
/// held. Memory on other devices is not planned.
class ReplayMemory final : private MemorySource {
 public:
  ReplayMemory();
  ~ReplayMemory() override;
  ReplayMemory(const ReplayMemory&) = delete;
  ReplayMemory& operator=(const ReplayMemory&) = delete;

  /// One run of a replay: makes it so for the calling thread. `end()` once it has let go of all
  /// but outputs and gradients; without it (the run threw) nothing is planned.
  class Run {
   public:
    explicit Run(ReplayMemory& memory);
    ~Run();
    void end(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& gradients);

   private:
    ReplayMemory& memory_;
    MemorySourceGuard guard_;
    bool ended_ = false;
  };

  bool has_plan() const { return !requests_.empty(); }
  /// As "57 pieces in 3.1 MiB, 5 kept ones in 0.8 MiB"; empty while there is no plan.
  std::string to_string() const;

 private:
  class Trace;
  class Arena;
  class Kept;
  /// What a run asked for, by number.
  struct Request {
    enum class From { arena, kept, stock } from = From::stock;
    size_t bytes = 0;
    size_t index = 0;  ///< within those of its kind
  };

  c10::DataPtr allocate(size_t bytes, c10::Allocator& stock) override;
  c10::DataPtr allocate_kept(size_t index, size_t bytes, c10::Allocator& stock);
  void make_plan(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& gradients);
  void drop_plan();

  std::shared_ptr<Trace> trace_;
  int traces_ = 0;
  bool gradients_stay_ = false;  // somebody holds them when the next run begins
  std::vector<Request> requests_;
  size_t next_ = 0;
  bool follows_ = false;  // this run has asked for what was planned so far
  MemoryPlan plan_;
  std::vector<size_t> let_go_;  // pieces that are free when a run ends: all but gradients
  std::shared_ptr<Arena> arena_;
  std::vector<std::vector<std::shared_ptr<Kept>>> kept_;
  size_t kept_bytes_ = 0;
};

}  // namespace halfstep::detail
