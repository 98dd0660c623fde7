#pragma once
#include <functional>
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

/// Gives a thread a state and takes it away again; counts as one level of autocast nesting.
class PropagatedStateGuard {
 public:
  explicit PropagatedStateGuard(const PropagatedState& state);
  ~PropagatedStateGuard();
  PropagatedStateGuard(const PropagatedStateGuard&) = delete;
  PropagatedStateGuard& operator=(const PropagatedStateGuard&) = delete;

 private:
  at::ThreadLocalStateGuard torch_guard_;
  bool previous_cache_enabled_;
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
/// level of its own on its thread: when the outermost ends, also by an exception, the process's
/// cast cache is cleared, so no cast outlives a thread that is slower than the region it came from.
/// The result may be called many times and from several threads at once, if `function` may.
///
/// Difference from at::wrapPropagateTLSState: that one loses the cache flag and leaves the thread's
/// casts in the cache.
template <class Function>
auto propagate(Function&& function) {
  return [state = detail::PropagatedState(),
          function = std::forward<Function>(function)](auto&&... arguments) -> decltype(auto) {
    const detail::PropagatedStateGuard guard(state);
    return std::invoke(function, std::forward<decltype(arguments)>(arguments)...);
  };
}

}  // namespace halfstep
