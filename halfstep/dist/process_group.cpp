#include "halfstep/dist/process_group.h"

#include "halfstep/core/error.h"
#include "halfstep/dist/gloo_backend.h"
#include "halfstep/dist/nccl_backend.h"
#include "halfstep/dist/rank_watch.h"
#include "halfstep/dist/store.h"

#include <cstdlib>

#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/cuda.h>

namespace halfstep::dist {

namespace {

constexpr const char* kProcessGroupWhere = "ProcessGroup";

void check(const ProcessGroupOptions& options) {
  const auto& launch = options.launch();
  HALFSTEP_CHECK_USAGE(
      launch.world_size >= 1 && launch.rank >= 0 && launch.rank < launch.world_size,
      kProcessGroupWhere, "a rank must be from 0 to world_size - 1, but got rank ", launch.rank,
      " of ", launch.world_size, "; set RANK and WORLD_SIZE, or start it with a launcher");
  HALFSTEP_CHECK_USAGE(launch.local_world_size >= 1 && launch.local_rank >= 0 &&
                           launch.local_rank < launch.local_world_size &&
                           launch.local_world_size <= launch.world_size,
                       kProcessGroupWhere,
                       "a local rank must be from 0 to local_world_size - 1, but got ",
                       launch.local_rank, " of ", launch.local_world_size, " (world_size ",
                       launch.world_size, "); set LOCAL_RANK and LOCAL_WORLD_SIZE");
  HALFSTEP_CHECK_USAGE(launch.world_size == 1 || launch.master_port != 0, kProcessGroupWhere,
                       "ranks must meet at a port from 1 to 65535, but got 0; set MASTER_PORT");
  HALFSTEP_CHECK_USAGE(options.timeout().count() > 0 && options.join_timeout().count() > 0,
                       kProcessGroupWhere, "time-outs must be above 0, but got ",
                       options.timeout().count(), " and ", options.join_timeout().count(),
                       " ms; leave them out for the defaults");
  HALFSTEP_CHECK_USAGE(options.lost_after() >= std::chrono::seconds(3), kProcessGroupWhere,
                       "lost_after must be at least 3 seconds, but got ",
                       options.lost_after().count(),
                       " ms; signs of life come twice a second: allow for a busy machine");
}

Backend choose(const ProcessGroupOptions& options) {
  if (options.backend() != Backend::automatic) return options.backend();
  if (!halfstep::detail::why_no_nccl().empty() || !torch::cuda::is_available())
    return Backend::gloo;
  // A launcher may show each process its own GPU alone.
  const auto devices = static_cast<int>(torch::cuda::device_count());
  const bool fits = devices >= options.launch().local_world_size ||
                    (devices == 1 && std::getenv("CUDA_VISIBLE_DEVICES") != nullptr);
  return fits ? Backend::nccl : Backend::gloo;
}

}  // namespace

std::string backend_name(Backend backend) {
  return backend == Backend::nccl ? "nccl" : backend == Backend::gloo ? "gloo" : "automatic";
}

ProcessGroup::ProcessGroup(const ProcessGroupOptions& options)
    : options_(options), exceptions_(std::uncaught_exceptions()) {
  check(options_);
  options_.backend(choose(options_));
  const auto& launch = options_.launch();
  if (world_size() > 1) quiet_ = std::make_unique<halfstep::detail::QuietC10d>();
  using Group = c10d::ProcessGroup;
  halfstep::detail::check_interfaces(launch);
  if (world_size() > 1)
    store_ = halfstep::detail::open_store(launch, options_.join_timeout());
  else
    store_ = c10::make_intrusive<c10d::HashStore>();
  auto group = c10::make_intrusive<Group>(store_, rank(), world_size());
  const auto gloo = halfstep::detail::make_gloo_backend(
      c10::make_intrusive<c10d::PrefixStore>("halfstep/gloo", store_), launch,
      options_.join_timeout(), options_.timeout());
  group->setBackend(c10::kCPU, Group::BackendType::GLOO, gloo);
  if (backend() == Backend::nccl) {
    group->setBackend(c10::kCUDA, Group::BackendType::NCCL,
                      halfstep::detail::make_nccl_backend(
                          c10::make_intrusive<c10d::PrefixStore>("halfstep/nccl", store_), launch,
                          options_.timeout()));
    group->setDefaultBackend(Group::BackendType::NCCL);
  } else {
    if (torch::cuda::is_available()) group->setBackend(c10::kCUDA, Group::BackendType::GLOO, gloo);
    group->setDefaultBackend(Group::BackendType::GLOO);
  }
  handle_ = std::move(group);
  if (world_size() > 1)
    watch_ = std::make_unique<halfstep::detail::RankWatch>(launch, options_.lost_after());
  // NCCL's own watch has things to say.
  if (backend() == Backend::nccl) quiet_.reset();
}

ProcessGroup::~ProcessGroup() {
  if (watch_ && !failed_ && std::uncaught_exceptions() > exceptions_)
    watch_->report({rank(), "it ended with an error, which it has printed itself"});
  // Connections first: ranks that wait for this one learn that it is gone.
  handle_.reset();
  watch_.reset();
  store_.reset();
}

void ProcessGroup::count_exchange() {
  if (watch_) watch_->count_exchange();
}

void ProcessGroup::fail(const std::exception_ptr& error) {
  const auto whose_fault = [&]() -> std::pair<std::string, bool> {
    try {
      std::rethrow_exception(error);
    } catch (const c10::Error& known) {
      return {known.what_without_backtrace(), dynamic_cast<const c10::DistError*>(&known)};
    } catch (const std::exception& known) {
      return {known.what(), halfstep::detail::is_gloo_error(known)};
    } catch (...) {
      return {"an exception of unknown type", false};
    }
  };
  const auto [text, exchange] = whose_fault();
  if (!watch_ || failed_) std::rethrow_exception(error);
  failed_ = true;
  if (!exchange) {
    watch_->report({rank(), text});
    std::rethrow_exception(error);
  }
  auto failure = watch_->look_closer();
  watch_->report({failure.rank < 0 ? rank() : failure.rank, failure.text});
  HALFSTEP_CHECK_ENVIRONMENT(failure.rank >= 0, kProcessGroupWhere,
                             "an exchange between ranks must end, but on rank ", rank(),
                             " it broke off (", text, "); ", failure.text,
                             ": raise the time-out, or look for calls that not all ranks make");
  halfstep::detail::raise<EnvironmentError>(
      kProcessGroupWhere, "all ranks must go on together, but rank ", failure.rank,
      " failed: ", failure.text, " (rank ", rank(), " noticed: ", text, ")");
}

}  // namespace halfstep::dist
