#pragma once
#include "halfstep/core/debug_info.h"

#include <memory>

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DispatchKey.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ThreadLocalDebugInfo.h>

namespace halfstep::detail {

/// Gets the op calls of a build as they enter the dispatcher, above autocast and autograd: linear,
/// attention and cross entropy whole, and nothing of what they are made of. Calls of autograd's
/// backward, wherever it runs, pass by. Travels with the thread state.
class ForwardCalls : public c10::DebugInfoBase {
 public:
  /// The one of the calling thread, or null.
  static ForwardCalls* current();

  /// Does the call: takes its arguments from the stack and leaves its results there.
  virtual void call(const c10::OperatorHandle& op, torch::jit::Stack* stack) = 0;

  /// Tells that build called backward() on a loss.
  virtual void begin_backward() {}

 protected:
  /// While it lives, calls of ops go on as they are: without autocast, and not to this.
  struct Below {
    c10::impl::ExcludeDispatchKeyGuard not_again{c10::DispatchKey::DeferredInit};
    c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
  };
};

/// Sends the calls of this thread to `calls` for as long as it lives. The first one registers a
/// kernel for each op of the process on DispatchKey::DeferredInit, which only threads inside such a
/// guard ever call.
class ForwardCallsGuard {
 public:
  explicit ForwardCallsGuard(std::shared_ptr<ForwardCalls> calls);

 private:
  DebugInfoEntry entry_;
  c10::impl::IncludeDispatchKeyGuard include_;
};

}  // namespace halfstep::detail
