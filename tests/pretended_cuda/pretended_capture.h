#pragma once
#include "halfstep/graph/capture/device_capture.h"

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <ATen/core/stack.h>
#include <c10/core/Stream.h>

namespace halfstep::testing {

/// What a captured stream was given: calls of CPU kernels on the device's memory, for later. Like a
/// CUDA graph it knows memory by its address, and owns only what was allocated in the capture.
class Tape {
 public:
  /// Memory that the tensors of a call's result are copied to, counted through its lists.
  struct Place {
    size_t result;
    void* memory;
    size_t bytes;
  };
  struct Call {
    std::function<void(torch::jit::Stack&)> run;
    torch::jit::Stack arguments;
    std::vector<Place> places;
  };

  void add(Call call);
  /// Keeps memory as long as the tape.
  void hold(std::shared_ptr<char> memory);
  /// Throws what CUDA says of a wait in a capture, and spoils the capture.
  [[noreturn]] void refuse(const std::string& what);
  bool spoiled() const { return spoiled_; }
  void play() const;

 private:
  mutable std::mutex mutex_;
  std::vector<Call> calls_;
  std::vector<std::shared_ptr<char>> memory_;
  bool spoiled_ = false;
};

/// The tape of the calling thread's current stream; null where it isn't captured.
Tape* current_tape();

/// Captures as CUDA graphs do, on the pretended device: what `run` queues is not computed, its
/// results are NaN (or bytes 0x7f) until a launch.
class PretendedCapture final : public detail::DeviceCapture {
 public:
  explicit PretendedCapture(c10::Device device);
  std::string why_not_now() const override;
  detail::StepResults warm_up(const std::function<detail::StepResults()>& run) override;
  void capture(const std::function<void()>& run,
               const std::vector<at::Generator>& generators) override;
  void launch(const std::function<void()>& first) override;

 private:
  c10::Stream stream_;
  std::unique_ptr<Tape> tape_;
};

}  // namespace halfstep::testing
