#include "halfstep/graph/recording_kernels.h"

#include "halfstep/core/libtorch.h"
#include "halfstep/graph/all_ops.h"
#include "halfstep/graph/recorder.h"

#include <memory>
#include <utility>

#include <ATen/core/dispatch/Dispatcher.h>

namespace halfstep::detail {

namespace {

constexpr std::string_view kSlotName = "halfstep::Recorder";
constexpr auto kSlot = debug_info_kind(&kSlotName, 4);

class RecordingKernel final : public c10::OperatorKernel {
 public:
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                  torch::jit::Stack* stack) {
    if (auto* recorder = Recorder::current()) return recorder->call(op, keys, stack);
    op.redispatchBoxed(
        keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::Fake), stack);
  }
};

std::shared_ptr<Recorder> with_kernels(std::shared_ptr<Recorder> recorder) {
  register_recording_kernels();
  return recorder;
}

}  // namespace

void register_recording_kernels() {
  static KernelsOfAllOps kernels(c10::DispatchKey::Fake, [] {
    return c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<RecordingKernel>());
  });
  kernels.register_missing();
}

Recorder* Recorder::current() {
  return static_cast<Recorder*>(c10::ThreadLocalDebugInfo::get(kSlot));
}

RecordingGuard::RecordingGuard(std::shared_ptr<Recorder> recorder)
    : entry_("Graph", kSlot, with_kernels(std::move(recorder))), include_(c10::DispatchKey::Fake) {}

}  // namespace halfstep::detail
