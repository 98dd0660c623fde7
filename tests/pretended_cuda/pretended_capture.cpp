#include "tests/pretended_cuda/pretended_capture.h"

#include <atomic>
#include <cstring>
#include <map>
#include <utility>

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include "tests/pretended_cuda/host_kernels.h"

namespace halfstep::testing {

namespace {

/// The streams that are captured now.
struct Captures {
  std::atomic<int> count = 0;  // most calls are in none
  std::mutex mutex;
  std::map<c10::StreamId, Tape*> tapes;
};

Captures& captures() {
  static auto* const all = new Captures;
  return *all;
}

class Capturing {
 public:
  Capturing(c10::StreamId stream, Tape& tape) : stream_(stream) {
    const std::lock_guard lock(captures().mutex);
    captures().tapes[stream] = &tape;
    ++captures().count;
  }
  ~Capturing() {
    const std::lock_guard lock(captures().mutex);
    captures().tapes.erase(stream_);
    --captures().count;
  }
  Capturing(const Capturing&) = delete;
  Capturing& operator=(const Capturing&) = delete;

 private:
  c10::StreamId stream_;
};

c10::Stream current_stream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(device);
}

}  // namespace

Tape* current_tape() {
  if (captures().count == 0) return nullptr;
  const auto stream = current_stream({c10::kCUDA, 0});
  const std::lock_guard lock(captures().mutex);
  const auto found = captures().tapes.find(stream.id());
  return found == captures().tapes.end() ? nullptr : found->second;
}

void Tape::add(Call call) {
  const std::lock_guard lock(mutex_);
  calls_.push_back(std::move(call));
}

void Tape::hold(std::shared_ptr<char> memory) {
  const std::lock_guard lock(mutex_);
  memory_.push_back(std::move(memory));
}

void Tape::refuse(const std::string& what) {
  spoiled_ = true;
  TORCH_CHECK(false, "CUDA error: operation not permitted when stream is capturing (", what, ")");
}

void Tape::play() const {
  for (const auto& call : calls_) {
    auto stack = call.arguments;
    call.run(stack);
    size_t index = 0;
    auto place = call.places.begin();
    for (const auto& value : stack) {
      map_tensors(value, [&](const at::Tensor& result) {
        if (place != call.places.end() && place->result == index) {
          TORCH_INTERNAL_ASSERT(result.storage().nbytes() == place->bytes);
          if (place->bytes > 0) std::memcpy(place->memory, result.storage().data(), place->bytes);
          ++place;
        }
        ++index;
        return result;
      });
    }
  }
}

PretendedCapture::PretendedCapture(c10::Device device)
    : stream_(c10::impl::VirtualGuardImpl(c10::kCUDA).getNewStream(device)) {}

std::string PretendedCapture::why_not_now() const {
  return current_tape() == nullptr ? "" : "the current stream is being captured by somebody else";
}

detail::StepResults PretendedCapture::warm_up(const std::function<detail::StepResults()>& run) {
  const c10::StreamGuard on_stream(stream_);
  return run();
}

void PretendedCapture::capture(const std::function<void()>& run,
                               const std::vector<at::Generator>& /*generators*/) {
  tape_.reset();
  auto tape = std::make_unique<Tape>();
  {
    const c10::StreamGuard on_stream(stream_);
    const Capturing capturing(stream_.id(), *tape);
    run();
  }
  TORCH_CHECK(!tape->spoiled(),
              "CUDA error: operation failed due to a previous error during capture");
  tape_ = std::move(tape);
}

void PretendedCapture::launch(const std::function<void()>& first) {
  first();
  TORCH_CHECK(current_tape() == nullptr, "pretended CUDA: a launch in a capture is not pretended");
  count_launch();
  tape_->play();
}

}  // namespace halfstep::testing
