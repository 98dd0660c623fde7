#pragma once
#include "halfstep/graph/replay.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Generator.h>
#include <c10/core/Device.h>

namespace halfstep::detail {

/// A sequence of calls that a device has taken note of, to be launched as one: on CUDA a
/// cudaGraph_t. "The current stream" is the calling thread's, of the device.
class DeviceCapture {
 public:
  virtual ~DeviceCapture() = default;

  /// Why nothing can be captured or launched at this moment, as a clause; empty where it can.
  virtual std::string why_not_now() const = 0;

  /// Runs on a stream of its own, after what the current stream was given and before what it is
  /// given next, so that libraries set up there what they must not while they are captured:
  /// handles, workspaces, the choice of algorithms.
  virtual StepResults warm_up(const std::function<StepResults()>& run) = 0;

  /// Takes note of what `run` queues, in place of what was captured before; nothing is computed.
  /// `generators` are those it draws from beside the device's default one. Throws what `run` or the
  /// device throws where it refuses; then stream, allocator and generators are as before, and
  /// nothing is captured.
  virtual void capture(const std::function<void()>& run,
                       const std::vector<at::Generator>& generators) = 0;

  /// Queues on the current stream what `first` queues, and then what was captured. Other streams
  /// that launches went to are waited for (on the device). Does not sync.
  virtual void launch(const std::function<void()>& first) = 0;
};

/// Makes a capture for a device; empty where nothing captures on devices of this type. CUDA's is
/// there in a CUDA build. Tests put others in; no graph may run while one is put in.
using CaptureMaker = std::function<std::unique_ptr<DeviceCapture>(c10::Device)>;
CaptureMaker& capture_maker(c10::DeviceType type);

/// CUDA's: cuda_capture.cpp, or empty from no_cuda_capture.cpp in a CPU build.
CaptureMaker cuda_capture_maker();

}  // namespace halfstep::detail
