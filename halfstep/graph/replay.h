#pragma once
#include "halfstep/graph/program.h"
#include "halfstep/graph/replay_memory.h"

#include <memory>
#include <string>
#include <vector>

namespace halfstep::detail {

/// Runs a Program: its calls one after the other, below autograd, on the calling thread. A value is
/// let go after its last use; its memory comes from LibTorch's allocator as in eager code, or on
/// the CPU from a plan (ReplayMemory). Not for use by two threads at once.
class Replay {
 public:
  explicit Replay(Program program, bool plan_memory = true);

  /// One run on `inputs`, which lie as the recorded ones did. Tensors it changes get a new version.
  /// Does not sync by itself. Where an op throws, what was written by then stays.
  void run(at::TensorList inputs);

  /// Of the last run: outputs and gradients, by position; undefined where the program has none.
  const std::vector<at::Tensor>& outputs() const { return outputs_; }
  const std::vector<at::Tensor>& gradients() const { return gradients_; }

  /// Lets go of outputs and gradients.
  void release();

  const Program& program() const { return program_; }

  /// What the memory plan is, in words; empty where there is none (yet).
  std::string memory() const { return memory_ ? memory_->to_string() : ""; }

 private:
  struct Step {
    std::vector<ValueId> drop;  // values nobody reads after it
  };

  void run_program(at::TensorList inputs);
  void call(const Instruction& instruction);
  void call_alias(const Instruction& instruction);
  void push_arguments(const Instruction& instruction);
  void take_results(const Instruction& instruction);
  std::vector<at::Tensor> collect(const std::vector<std::optional<ValueId>>& ids) const;

  Program program_;
  std::vector<Step> steps_;
  std::vector<at::Tensor> values_;
  std::vector<ValueId> written_;  // inputs and externals
  std::vector<at::Tensor> outputs_, gradients_;
  torch::jit::Stack stack_;
  std::unique_ptr<ReplayMemory> memory_;
};

}  // namespace halfstep::detail
