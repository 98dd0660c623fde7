#pragma once
#include "halfstep/dist/launch_environment.h"

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

// c10d's headers take seconds to compile: only sources include them.
namespace c10d {
class ProcessGroup;
class Store;
}  // namespace c10d

namespace halfstep {

namespace detail {
class QuietC10d;
class RankWatch;
}  // namespace detail

namespace dist {

/// What carries the exchanges between ranks.
enum class Backend {
  automatic,  ///< nccl where each rank of a machine has a CUDA device of its own, else gloo
  gloo,       ///< TCP between CPUs; a GPU's tensors go through the host's memory
  nccl,       ///< between GPUs, one for each rank; what lies on the CPU still goes by gloo
};

/// How the ranks of a job are joined.
///
///   ProcessGroupOptions(launch).backend(Backend::gloo).timeout(std::chrono::seconds(60))
class ProcessGroupOptions {
 public:
  ProcessGroupOptions() = default;
  /// Converts implicitly, so that `ProcessGroup group(launch)` works.
  ProcessGroupOptions(LaunchEnvironment launch) : launch_(std::move(launch)) {}

  /// Who this process is. Default: a job of one.
  const LaunchEnvironment& launch() const { return launch_; }

  /// Default: automatic.
  ProcessGroupOptions& backend(Backend value) { return backend_ = value, *this; }
  Backend backend() const { return backend_; }

  /// For how long a rank may wait for the others, in an exchange and at the beginning. Default: 30
  /// minutes, as in Python (NCCL's there is 10). Above 0.
  ProcessGroupOptions& timeout(std::chrono::milliseconds value) { return timeout_ = value, *this; }
  std::chrono::milliseconds timeout() const { return timeout_; }

  /// For how long the ranks wait for each other at the beginning, where that differs. Default: 5
  /// minutes, as Python's store.
  ProcessGroupOptions& join_timeout(std::chrono::milliseconds value) {
    return join_timeout_ = value, *this;
  }
  std::chrono::milliseconds join_timeout() const { return join_timeout_; }

  /// After how much time without a sign of life a rank counts as lost (killed, stopped, its machine
  /// gone), which ends the job. A thread of its own gives these signs, however long a step takes.
  /// Default: 8 seconds. At least 3.
  ProcessGroupOptions& lost_after(std::chrono::milliseconds value) {
    return lost_after_ = value, *this;
  }
  std::chrono::milliseconds lost_after() const { return lost_after_; }

 private:
  LaunchEnvironment launch_;
  Backend backend_ = Backend::automatic;
  std::chrono::milliseconds timeout_ = std::chrono::minutes(30);
  std::chrono::milliseconds join_timeout_ = std::chrono::minutes(5);
  std::chrono::milliseconds lost_after_ = std::chrono::seconds(8);
};

/// How all_reduce_ combines.
enum class Reduce { sum, mean, max, min };

/// The ranks of a job, joined: what torch.distributed.init_process_group makes, as an object.
///
///   halfstep::dist::ProcessGroup group(launch);
///   group.run([&] {
///     halfstep::dist::DistributedDataParallel ddp(net, group);
///     … train …
///   });
///
/// All ranks make the same calls in the same order. A rank that fails takes the others along within
/// `lost_after` and a few seconds: run() lets them say whose failure it was and what it was; a rank
/// that can't, because it waits for one that is gone, is ended (exit status 1) with that message.
/// Make it before what uses it and outside of it, so that it goes last: rank 0's destructor waits
/// for the others.
///
/// With one rank there are neither connections nor threads of its own, and all functions work. The
/// functions are for one thread at a time. Errors of the network, and other ranks', are
/// EnvironmentErrors. Difference from Python: there is no default group.
class ProcessGroup {
 public:
  /// Joins the others. Throws UsageError for a rank outside of the job and options out of range;
  /// EnvironmentError, within join_timeout, for a port that is taken, an address that does not
  /// answer, a rank that is missing or there twice, and an interface that does not exist.
  explicit ProcessGroup(const ProcessGroupOptions& options);
  ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const { return options_.launch().rank; }
  int world_size() const { return options_.launch().world_size; }
  bool is_first() const { return rank() == 0; }
  const LaunchEnvironment& launch() const { return options_.launch(); }
  /// Never automatic.
  Backend backend() const { return options_.backend(); }

  /// LibTorch's group, as GradScalerOptions::process_group takes it.
  const c10::intrusive_ptr<c10d::ProcessGroup>& handle() const { return handle_; }

  /// Returns when all ranks have come here.
  void barrier();

  /// Gives every rank the `root` rank's elements. Same shape and dtype on all ranks; for tensors of
  /// a GPU waits as its stream does.
  void broadcast_(const at::Tensor& tensor, int root = 0);
  /// The same for a text of any length.
  std::string broadcast(const std::string& text, int root = 0);

  /// Combines each element over all ranks, in place. Same shape and dtype on all ranks. `mean` is
  /// the sum over world_size(): of floating-point tensors only.
  void all_reduce_(const at::Tensor& tensor, Reduce reduce = Reduce::sum);

  /// The text of every rank, by rank.
  std::vector<std::string> all_gather(const std::string& text);

  /// Throws UsageError, on all ranks alike, where `text` is not the same on all: "[where] `what`
  /// must be the same on all ranks, but rank 1 differs from rank 0 in line 3: 'b' instead of 'a';
  /// `advice`".
  void check_same(const char* where, const std::string& what, const std::string& text,
                  const std::string& advice);

  /// Runs `body`. An error of this rank's own passes through, and the other ranks are told; where
  /// an exchange broke off, throws EnvironmentError that names the rank it was for, and its error.
  template <class Body>
  auto run(const Body& body) -> decltype(body()) {
    try {
      return body();
    } catch (...) {
      fail(std::current_exception());
    }
  }

  /// What run() does with an error.
  [[noreturn]] void fail(const std::exception_ptr& error);

  /// For parts that make exchanges by handle(): counts one, so that a rank that hangs is found.
  void count_exchange();

 private:
  ProcessGroupOptions options_;
  int exceptions_ = 0;  // under way when this object was made
  bool failed_ = false;
  std::unique_ptr<halfstep::detail::QuietC10d> quiet_;
  c10::intrusive_ptr<c10d::Store> store_;  // with rank 0's server, which the watch needs
  c10::intrusive_ptr<c10d::ProcessGroup> handle_;
  std::unique_ptr<halfstep::detail::RankWatch> watch_;  // null with one rank
};

/// "gloo" or "nccl".
std::string backend_name(Backend backend);

}  // namespace dist
}  // namespace halfstep
