#include "halfstep/inspect/op_observer.h"

#include "halfstep/core/error.h"
#include "halfstep/core/libtorch.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include <torch/csrc/autograd/graph_task.h>

namespace halfstep::inspect::detail {

namespace {

constexpr std::string_view kSlotName = "halfstep::inspect recording";
constexpr auto kSlot = halfstep::detail::debug_info_kind(&kSlotName, 3);

std::optional<c10::ScalarType> first_floating_dtype(const std::vector<c10::IValue>& values) {
  for (const c10::IValue& value : values) {
    if (const auto dtype = floating_dtype(value)) return dtype;
  }
  return std::nullopt;
}

std::string_view without_namespace(std::string_view name) {
  constexpr std::string_view aten = "aten::";
  return name.starts_with(aten) ? name.substr(aten.size()) : name;
}

std::mutex callback_mutex;
int callback_counters = 0;
int callback_recordings = 0;
at::CallbackHandle callback = at::INVALID_CALLBACK_HANDLE;

}  // namespace

std::optional<c10::ScalarType> floating_dtype(const c10::IValue& value) {
  if (value.isTensor()) {
    const auto& tensor = value.toTensor();
    const bool floating = tensor.defined() && (tensor.is_floating_point() || tensor.is_complex());
    return floating ? std::optional(tensor.scalar_type()) : std::nullopt;
  }
  if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) {
      if (const auto dtype = floating_dtype(element)) return dtype;
    }
  }
  return std::nullopt;
}

OpRecording* OpRecording::current() {
  return static_cast<OpRecording*>(c10::ThreadLocalDebugInfo::get(kSlot));
}

OpRecordingGuard::OpRecordingGuard(std::shared_ptr<OpRecording> recording)
    : entry_("PrecisionRecorder", kSlot, std::move(recording)) {
  OpObserver::add_recording();
}

OpRecordingGuard::~OpRecordingGuard() {
  OpObserver::remove_recording();
}

OpObserver& OpObserver::of_this_thread() {
  thread_local OpObserver observer;
  return observer;
}

void OpObserver::add(DtypeReport* report) {
  counters_.push_back(report);
  change_callback(1, 0);
}

bool OpObserver::remove(DtypeReport* report) {
  const auto found = std::find(counters_.begin(), counters_.end(), report);
  if (found == counters_.end()) return false;
  counters_.erase(found);
  change_callback(-1, 0);
  return true;
}

void OpObserver::add_recording() {
  change_callback(0, 1);
}

void OpObserver::remove_recording() {
  change_callback(0, -1);
}

/// Inputs are boxed for the callback, which counters have no use for.
void OpObserver::change_callback(int counters, int recordings) {
  const std::lock_guard lock(callback_mutex);
  const auto kind = [] {
    if (callback_recordings > 0) return 2;
    return callback_counters > 0 ? 1 : 0;
  };
  const int before = kind();
  callback_counters += counters;
  callback_recordings += recordings;
  const int now = kind();
  if (now == before) return;
  if (before != 0) at::removeCallback(callback);
  if (now == 0) return;
  callback = at::addGlobalCallback(at::RecordFunctionCallback(&on_start, &on_end)
                                       .needsInputs(now == 2)
                                       .needsOutputs(true)
                                       .scopes({at::RecordScope::FUNCTION}));
}

std::unique_ptr<at::ObserverContext> OpObserver::on_start(const at::RecordFunction& call) {
  // Autograd calls its nodes by this name, which are no ops.
  if (std::string_view(call.name()).starts_with("autograd::")) return nullptr;
  auto& self = of_this_thread();
  // On the CPU backward() runs on the thread that called it.
  const bool backward = torch::autograd::get_current_graph_task_id() != -1;
  auto* recording = OpRecording::current();
  if (recording != nullptr && !recording->is_open()) recording = nullptr;
  const bool counted = !backward && !self.counters_.empty();
  if (!counted && recording == nullptr) return nullptr;
  auto frame = std::make_unique<OpFrame>();
  frame->caller = self.running_;
  frame->op = without_namespace(call.name());
  frame->kind = kind_of_op(frame->op);
  frame->inside_kind =
      frame->caller != nullptr && (frame->caller->inside_kind || !frame->caller->kind.empty());
  frame->counted = counted;
  frame->backward = backward;
  if (recording != nullptr) {
    frame->recording = recording->shared_from_this();
    recording->begin(*frame, call);
  }
  self.running_ = frame.get();
  return frame;
}

void OpObserver::on_end(const at::RecordFunction& call, at::ObserverContext* context) {
  if (context == nullptr) return;
  auto& self = of_this_thread();
  auto& frame = static_cast<OpFrame&>(*context);
  self.running_ = frame.caller;
  auto dtype = frame.inner_dtype;
  if (!dtype) dtype = first_floating_dtype(call.outputs());
  if (!dtype) return;
  if (frame.caller != nullptr && frame.caller->op == frame.op) {
    frame.caller->inner_dtype = dtype;
    return;
  }
  if (frame.recording) frame.recording->end(frame, *dtype, call);
  if (!frame.counted) return;
  for (auto* report : self.counters_) {
    ++report->ops[frame.op][*dtype];
    if (!frame.kind.empty() && !frame.inside_kind) ++report->kinds[std::string(frame.kind)][*dtype];
  }
}

}  // namespace halfstep::inspect::detail
