#pragma once
#include "halfstep/core/debug_info.h"
#include "halfstep/graph/call_place.h"
#include "halfstep/graph/program.h"
#include "halfstep/graph/value_table.h"

#include <memory>
#include <mutex>
#include <string>

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ThreadLocalDebugInfo.h>

namespace halfstep::detail {

/// Writes down the op calls of a step while they run, below autograd: forward, backward and what
/// hooks do there. Travels with the thread state to autograd's threads.
class Recorder final : public c10::DebugInfoBase {
 public:
  /// `root`: whose modules messages name.
  explicit Recorder(const torch::nn::Module& root) : places_(root), table_(program_) {}

  /// The recorder of the calling thread, or null.
  static Recorder* current();

  /// Tensors the step may use. Anything else that no recorded op made is an error.
  void add_input(const at::Tensor& tensor, std::string name);
  void add_external(const at::Tensor& tensor, std::string name);

  /// The value that `tensor` has at the end, also as another view of one. Throws UsageError where
  /// no recorded op made it; `what` names it in the message.
  ValueId value_of(const at::Tensor& tensor, const std::string& what);

  /// Runs a call and writes it down. Throws UsageError where it can't be replayed.
  void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack);

  /// The first error of a call, which code under way may have caught; empty where there was none.
  const std::string& error() const { return error_; }

  const CallPlaces& places() const { return places_; }

  Program take_program() { return std::move(program_); }

 private:
  /// Throws UsageError for a call that can't be replayed.
  c10::ArrayRef<c10::IValue> checked_arguments(const c10::OperatorHandle& op,
                                               const torch::jit::Stack& stack);
  std::string call_text(const c10::OperatorHandle& op, c10::ArrayRef<c10::IValue> arguments) const;
  Instruction begin(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                    const torch::jit::Stack& stack);
  void end(Instruction instruction, const torch::jit::Stack& stack);
  void add_operand(Instruction& instruction, size_t argument, int32_t element,
                   const at::Tensor& tensor, c10::ArrayRef<c10::IValue> arguments);
  void add_result(Instruction& instruction, size_t result, int32_t element,
                  const at::Tensor& tensor);
  void call_in_place_view(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                          torch::jit::Stack* stack);
  ValueId add_alias(const at::Tensor& tensor, ValueId of);
  [[noreturn]] void fail(const std::string& message);

  CallPlaces places_;
  Program program_;
  ValueTable table_;
  std::string error_;
  std::mutex mutex_;  // backward runs on a thread of its own for each device
};

/// Lets `recorder` see the op calls of this thread for as long as it lives. The first one registers
/// a kernel for each op of the process, which only threads that record ever call.
class RecordingGuard {
 public:
  explicit RecordingGuard(std::shared_ptr<Recorder> recorder);

 private:
  DebugInfoEntry entry_;
  c10::impl::IncludeDispatchKeyGuard include_;
};

}  // namespace halfstep::detail
