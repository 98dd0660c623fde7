#include "halfstep/core/libtorch.h"
#include "halfstep/graph/capture/device_capture.h"

#include <exception>
#include <mutex>
#include <optional>

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace halfstep::detail {

namespace {

using at::cuda::CUDAGraph;
using c10::cuda::CUDAStream;

constexpr bool kRefusalLingers = kRefusedCaptureLingers<CUDAGraph>;

/// What `later` is given from now on waits for what `earlier` has.
void queue_after(const CUDAStream& later, const CUDAStream& earlier) {
  if (later == earlier) return;
  at::cuda::CUDAEvent event;
  event.record(earlier);
  event.block(later);
}

/// The allocator must not use their memory again before `stream` has come so far.
void used_on(const CUDAStream& stream, const std::vector<at::Tensor>& tensors) {
  for (const auto& tensor : tensors) {
    if (tensor.defined() && tensor.is_cuda() && tensor.has_storage())
      c10::cuda::CUDACachingAllocator::recordStream(tensor.storage().data_ptr(), stream);
  }
}

/// Random generators as they were, for LibTorch versions that leave them in a capture that was
/// refused: there they refuse to draw from then on.
class KeptGenerators {
 public:
  KeptGenerators(c10::Device device, const std::vector<at::Generator>& generators) {
    if (!kRefusalLingers) return;
    add(at::cuda::detail::getDefaultCUDAGenerator(device.index()));
    for (const auto& generator : generators) add(generator);
  }
  void restore() {
    for (auto& kept : kept_) {
      const std::lock_guard lock(kept.generator.mutex());
      auto fresh = at::cuda::detail::createCUDAGenerator(kept.generator.device().index());
      fresh.set_current_seed(kept.seed);
      fresh.set_offset(kept.offset);
      kept.generator.graphsafe_set_state(fresh);
    }
  }

 private:
  struct Kept {
    at::Generator generator;
    uint64_t seed, offset;
  };
  void add(at::Generator generator) {
    const std::lock_guard lock(generator.mutex());
    kept_.push_back({generator, generator.current_seed(), generator.get_offset()});
  }
  std::vector<Kept> kept_;
};

/// A CUDA graph with a memory pool of its own.
class CudaCapture final : public DeviceCapture {
 public:
  explicit CudaCapture(c10::Device device)
      : device_(device),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())) {}

  ~CudaCapture() override {
    // Whoever made the inputs of the graph lets them go now, to the stream they were made on.
    try {
      if (launched_on_) queue_after(*captured_on_, *launched_on_);
    } catch (const std::exception&) {  // the device is lost: whoever uses it next is told
    }
  }

  std::string why_not_now() const override {
    const c10::cuda::CUDAGuard on_device(device_);
    if (c10::cuda::currentStreamCaptureStatusMayInitCtx() == c10::cuda::CaptureStatus::None)
      return "";
    return "the current stream is being captured by somebody else";
  }

  StepResults warm_up(const std::function<StepResults()>& run) override {
    const auto current = current_stream();
    queue_after(stream_, current);
    StepResults results;
    {
      const c10::cuda::CUDAStreamGuard on_stream(stream_);
      results = run();
    }
    queue_after(current, stream_);
    used_on(current, results.outputs);
    used_on(current, results.gradients);
    return results;
  }

  void capture(const std::function<void()>& run,
               const std::vector<at::Generator>& generators) override {
    graph_.reset();  // first, so that there are never two pools
    const auto current = current_stream();
    if (!captured_on_) captured_on_ = current;
    KeptGenerators kept(device_, generators);
    auto graph = std::make_unique<CUDAGraph>();
    for (const auto& generator : generators) register_generator(*graph, generator);
    const auto pool = at::cuda::graph_pool_handle();
    queue_after(stream_, current);
    const c10::cuda::CUDAStreamGuard on_stream(stream_);
    try {
      // Of this thread only: others may load data meanwhile.
      graph->capture_begin(pool, cudaStreamCaptureModeThreadLocal);
      run();
      graph->capture_end();
    } catch (...) {
      abandon(*graph, pool, kept);
      throw;
    }
    graph_ = std::move(graph);
  }

  void launch(const std::function<void()>& first) override {
    const auto current = current_stream();
    // The memory of a graph is that of its earlier launches.
    if (launched_on_) queue_after(current, *launched_on_);
    launched_on_ = current;
    first();
    const c10::cuda::CUDAGuard on_device(device_);
    graph_->replay();
  }

 private:
  CUDAStream current_stream() const { return c10::cuda::getCurrentCUDAStream(device_.index()); }

  /// Ends a capture that failed, whatever state it is in.
  void abandon(CUDAGraph& graph, c10::MempoolId_t pool, KeptGenerators& kept) const noexcept {
    try {
      graph.capture_end();
      return;                          // it was valid: an op refused on the host
    } catch (const std::exception&) {  // the device had ended it
    }
    if (!kRefusalLingers) return;
    try {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device_.index(), pool);
    } catch (const std::exception&) {  // it had not begun, or has ended
    }
    try {
      kept.restore();
    } catch (const std::exception&) {  // the device is lost: whoever uses it next is told
    }
  }

  c10::Device device_;
  CUDAStream stream_;
  std::unique_ptr<CUDAGraph> graph_;
  std::optional<CUDAStream> captured_on_, launched_on_;
};

}  // namespace

CaptureMaker cuda_capture_maker() {
  return [](c10::Device device) { return std::make_unique<CudaCapture>(device); };
}

}  // namespace halfstep::detail
