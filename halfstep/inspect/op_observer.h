#pragma once
#include "halfstep/core/debug_info.h"
#include "halfstep/inspect/dtype_report.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/record_function.h>
#include <c10/util/ThreadLocalDebugInfo.h>

namespace halfstep::inspect::detail {

class OpRecording;

/// What a recording keeps with a running operator.
struct OpNote {
  virtual ~OpNote() = default;
};

/// One running operator; LibTorch keeps it from the op's start to its end.
struct OpFrame : at::ObserverContext {
  OpFrame* caller = nullptr;
  std::string op;  // without "aten::" and overload
  std::string_view kind;
  bool inside_kind = false;
  bool counted = false;                        // by the thread's DtypeCounters
  std::optional<c10::ScalarType> inner_dtype;  // of the same op, called again by autocast

  std::shared_ptr<OpRecording> recording;  // which fills in what follows
  std::string module;
  bool backward = false;
  bool is_row = false;
  std::optional<c10::ScalarType> cast_from;
  std::unique_ptr<OpNote> note;
};

/// A thread state that is told of each op, also of those on threads that autograd or
/// halfstep::propagate carries it to. Called from several threads at once.
class OpRecording : public c10::DebugInfoBase, public std::enable_shared_from_this<OpRecording> {
 public:
  /// The innermost one of the calling thread, or null.
  static OpRecording* current();

  virtual bool is_open() const = 0;
  virtual void begin(OpFrame& frame, const at::RecordFunction& call) = 0;
  /// `dtype`: of the op's first floating-point output, or of the call of itself that autocast made.
  virtual void end(const OpFrame& frame, c10::ScalarType dtype, const at::RecordFunction& call) = 0;
};

/// Puts a recording into the calling thread's state.
class OpRecordingGuard {
 public:
  explicit OpRecordingGuard(std::shared_ptr<OpRecording> recording);
  ~OpRecordingGuard();
  OpRecordingGuard(const OpRecordingGuard&) = delete;
  OpRecordingGuard& operator=(const OpRecordingGuard&) = delete;

 private:
  halfstep::detail::DebugInfoEntry entry_;
};

/// A thread's running operators and what counts them. The callback is one for the process, there
/// while anything counts: at::ThreadLocalState would carry a thread's own one along with work, so
/// that it is called twice, or for a dead counter, or not at all.
class OpObserver {
 public:
  static OpObserver& of_this_thread();

  /// Adds up into `report` what begins and ends on this thread, backward left out.
  void add(DtypeReport* report);
  /// False where this thread never had it.
  bool remove(DtypeReport* report);

  /// Recordings need the callback, and the ops' inputs.
  static void add_recording();
  static void remove_recording();

 private:
  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& call);
  static void on_end(const at::RecordFunction& call, at::ObserverContext* context);
  static void change_callback(int counters, int recordings);

  std::vector<DtypeReport*> counters_;
  OpFrame* running_ = nullptr;
};

/// The floating-point (or complex) dtype of a tensor or of the first such in a list.
std::optional<c10::ScalarType> floating_dtype(const c10::IValue& value);

}  // namespace halfstep::inspect::detail
