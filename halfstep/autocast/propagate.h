#pragma once
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include <ATen/ThreadLocalState.h>

namespace halfstep {

namespace detail {

/// The calling thread's state: LibTorch's own (autocast, grad and inference mode, debug info) and
/// the autocast cache flag, which LibTorch's leaves out.
class PropagatedState {
 public:
  PropagatedState();

 private:
  friend class PropagatedStateGuard;
  at::ThreadLocalState torch_state_;
  bool cache_enabled_;
};

/// Gives a thread a state and takes it away again; counts as one level of autocast nesting. The
/// cast cache, which knows no dtype, is cleared at both ends unless the thread was in a region of
/// the same settings.
class PropagatedStateGuard {
 public:
  explicit PropagatedStateGuard(const PropagatedState& state);
  ~PropagatedStateGuard();
  PropagatedStateGuard(const PropagatedStateGuard&) = delete;
  PropagatedStateGuard& operator=(const PropagatedStateGuard&) = delete;

 private:
  std::optional<at::ThreadLocalStateGuard> torch_guard_;
  bool previous_cache_enabled_;
  bool clears_cache_ = true;
};

/// A callable and the state it runs under. Callable as const if the callable is.
template <class Function>
class Propagated {
 public:
  explicit Propagated(Function function) : function_(std::move(function)) {}

  template <class... Arguments>
  requires std::is_invocable_v<Function&, Arguments...>
  decltype(auto) operator()(Arguments&&... arguments) {
    const PropagatedStateGuard guard(state_);
    return std::invoke(function_, std::forward<Arguments>(arguments)...);
  }

  template <class... Arguments>
  requires std::is_invocable_v<const Function&, Arguments...>
  decltype(auto) operator()(Arguments&&... arguments) const {
    const PropagatedStateGuard guard(state_);
    return std::invoke(function_, std::forward<Arguments>(arguments)...);
  }

 private:
  PropagatedState state_;
  Function function_;
};

}  // namespace detail

/// Wraps a callable so that it runs, on whatever thread, under the state of the thread that called
/// propagate: autocast with its dtype and cache flag, grad mode, inference mode. A new std::thread
/// has none of them.
///
///   halfstep::Autocast autocast(torch::kCPU);
///   std::thread worker(halfstep::propagate([&] { output = net->forward(input); }));
///   worker.join();
///
/// The state is taken when propagate is called, not when the result is. Each call is an autocast
/// level of its own on its thread. LibTorch's cast cache is one for the process, so it is cleared
/// when a call begins and when it ends, also by an exception, unless the thread is in a region of
/// the same dtype already: no cast has the wrong dtype, and none outlives a thread that is slower
/// than the region it came from. The result may be called many times and from several threads at
/// once, if `function` may.
///
/// Difference from at::wrapPropagateTLSState: that one loses the cache flag, finds casts of another
/// dtype in the cache, leaves the thread's casts there, and takes no function that changes its own
/// state.
template <class Function>
auto propagate(Function&& function) {
  return detail::Propagated<std::decay_t<Function>>(std::forward<Function>(function));
}

}  // namespace halfstep
