#include "halfstep/graph/recording_kernels.h"

#include "halfstep/core/libtorch.h"
#include "halfstep/graph/recorder.h"

#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

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
  static std::mutex mutex;
  static std::unordered_set<c10::OperatorName> seen;
  // Never destroyed: taking kernels away while the process ends helps nobody.
  static auto& handles = *new std::vector<c10::RegistrationHandleRAII>();
  const std::lock_guard lock(mutex);
  auto& dispatcher = c10::Dispatcher::singleton();
  const auto names = dispatcher.getAllOpNames();
  if (names.size() == seen.size()) return;
  for (const auto& name : names) {
    if (!seen.insert(name).second) continue;
    const auto op = dispatcher.findSchema(name);
    if (!op || op->hasKernelForDispatchKey(c10::DispatchKey::Fake)) continue;
    handles.push_back(dispatcher.registerImpl(
        name, c10::DispatchKey::Fake,
        c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<RecordingKernel>()),
        std::nullopt, nullptr, "halfstep"));
  }
}

Recorder* Recorder::current() {
  return static_cast<Recorder*>(c10::ThreadLocalDebugInfo::get(kSlot));
}

RecordingGuard::RecordingGuard(std::shared_ptr<Recorder> recorder)
    : entry_("Graph", kSlot, with_kernels(std::move(recorder))), include_(c10::DispatchKey::Fake) {}

}  // namespace halfstep::detail
