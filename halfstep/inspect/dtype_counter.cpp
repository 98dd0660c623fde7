#include "halfstep/inspect/dtype_counter.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <ATen/record_function.h>
#include <torch/csrc/autograd/graph_task.h>

namespace halfstep::inspect {

namespace {

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

std::optional<c10::ScalarType> first_floating_dtype(const std::vector<c10::IValue>& values) {
  for (const c10::IValue& value : values) {
    if (const auto dtype = floating_dtype(value)) return dtype;
  }
  return std::nullopt;
}

/// One running operator; LibTorch keeps it from the op's start to its end.
struct Frame : at::ObserverContext {
  Frame* caller = nullptr;
  std::string op;
  std::string_view kind;
  bool inside_kind = false;
  std::optional<c10::ScalarType> inner_dtype;  // of the same op, called again by autocast
};

std::string_view without_namespace(std::string_view name) {
  constexpr std::string_view aten = "aten::";
  return name.starts_with(aten) ? name.substr(aten.size()) : name;
}

}  // namespace

/// A thread's running operators and living counters. The callback is one for the process, there
/// while any counter lives: at::ThreadLocalState would carry a thread's own one along with work, so
/// that it is called twice, or for a dead counter, or not at all.
class OpObserver {
 public:
  static OpObserver& of_this_thread() {
    thread_local OpObserver observer;
    return observer;
  }

  void add(DtypeCounter* counter) {
    counters_.push_back(counter);
    const std::lock_guard lock(callback_mutex);
    if (callback_users++ > 0) return;
    callback = at::addGlobalCallback(at::RecordFunctionCallback(&on_start, &on_end)
                                         .needsOutputs(true)
                                         .scopes({at::RecordScope::FUNCTION}));
  }

  bool remove(DtypeCounter* counter) {
    const auto found = std::find(counters_.begin(), counters_.end(), counter);
    if (found == counters_.end()) return false;
    counters_.erase(found);
    const std::lock_guard lock(callback_mutex);
    if (--callback_users == 0) at::removeCallback(callback);
    return true;
  }

 private:
  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& call) {
    auto& self = of_this_thread();
    // On the CPU backward() runs on the thread that called it.
    if (self.counters_.empty() || torch::autograd::get_current_graph_task_id() != -1)
      return nullptr;
    auto frame = std::make_unique<Frame>();
    frame->caller = self.running_;
    frame->op = without_namespace(call.name());
    frame->kind = kind_of_op(frame->op);
    frame->inside_kind =
        frame->caller != nullptr && (frame->caller->inside_kind || !frame->caller->kind.empty());
    self.running_ = frame.get();
    return frame;
  }

  static void on_end(const at::RecordFunction& call, at::ObserverContext* context) {
    if (context == nullptr) return;
    auto& self = of_this_thread();
    auto& frame = static_cast<Frame&>(*context);
    self.running_ = frame.caller;
    auto dtype = frame.inner_dtype;
    // Inputs can't be asked for: LibTorch's header expects of them what only a debug LibTorch
    // keeps.
    if (!dtype) dtype = first_floating_dtype(call.outputs());
    if (!dtype) return;
    if (frame.caller != nullptr && frame.caller->op == frame.op) {
      frame.caller->inner_dtype = dtype;
      return;
    }
    for (auto* counter : self.counters_) {
      auto& report = counter->report_;
      ++report.ops[frame.op][*dtype];
      if (!frame.kind.empty() && !frame.inside_kind)
        ++report.kinds[std::string(frame.kind)][*dtype];
    }
  }

  std::vector<DtypeCounter*> counters_;
  Frame* running_ = nullptr;

  inline static std::mutex callback_mutex;
  inline static int callback_users = 0;
  inline static at::CallbackHandle callback = at::INVALID_CALLBACK_HANDLE;
};

DtypeCounter::DtypeCounter() {
  OpObserver::of_this_thread().add(this);
}

DtypeCounter::~DtypeCounter() {
  if (!OpObserver::of_this_thread().remove(this))
    detail::die(
        "DtypeCounter",
        "a counter must end on the thread that began it, but this one did not; keep it on the "
        "stack");
}

}  // namespace halfstep::inspect
