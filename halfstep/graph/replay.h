#pragma once
#include "halfstep/graph/placed_tensors.h"
#include "halfstep/graph/program.h"
#include "halfstep/graph/replay_memory.h"

#include <memory>
#include <string>
#include <vector>

namespace halfstep::detail {

/// What a step leaves beside the tensors it changes, by position; undefined where the program has
/// none.
struct StepResults {
  std::vector<at::Tensor> outputs, gradients;
};

/// Runs a Program: its calls one after the other, below autograd, on the calling thread. A value is
/// let go after its last use; its memory comes from LibTorch's allocator as in eager code, or on
/// the CPU from a plan (ReplayMemory). Placed results and what is made once stay. Not for use by
/// two threads at once.
class Replay {
 public:
  explicit Replay(Program program, bool plan_memory = true);

  /// One run on `inputs`, which lie as the recorded ones did. Tensors it changes get a new version.
  /// Does not sync by itself. Where an op throws, what was written by then stays.
  StepResults run(at::TensorList inputs);

  /// Gives the tensors that live on and are changed by a run a new version, as a run does.
  void note_writes();

  const Program& program() const { return program_; }

  /// Whether there is a memory plan (yet), and what it is, in words.
  bool has_memory_plan() const { return memory_ != nullptr && memory_->has_plan(); }
  std::string memory() const;

 private:
  struct Step {
    std::vector<ValueId> drop;  // values nobody reads after it
  };
  /// A tensor that lives on, with the memory it had when what is made once was made of it.
  struct Root {
    ValueId value;  // no reference to the tensor: WatchedState counts those
    const c10::StorageImpl* storage;
  };

  bool stays(ValueId id) const { return stays_[static_cast<size_t>(id)]; }
  bool is_prepared() const;
  void prepare();
  StepResults run_program(at::TensorList inputs);
  void run_calls();
  void let_go();
  void let_go_after(size_t call);
  void make(const Instruction& instruction);
  void call(const Instruction& instruction);
  void call_alias(const Instruction& instruction);
  void push_arguments(const Instruction& instruction);
  void take_results(const Instruction& instruction);
  const c10::StorageImpl* storage_of(ValueId id) const;
  std::vector<at::Tensor> collect(const std::vector<std::optional<ValueId>>& ids) const;

  Program program_;
  std::vector<Step> steps_;
  std::vector<at::Tensor> values_;
  std::vector<bool> stays_;       // values that are not let go
  std::vector<ValueId> written_;  // inputs and externals
  PlacedTensors placed_;
  std::vector<Root> roots_;
  bool prepared_ = false;
  bool observed_ = false;  // by RecordFunction's callbacks, in this run
  torch::jit::Stack stack_;
  std::unique_ptr<ReplayMemory> memory_;
};

}  // namespace halfstep::detail
