#include "halfstep/train/launch/launch_commands.h"

#include "halfstep/core/error.h"
#include "halfstep/train/launch/dist_train.h"
#include "halfstep/train/launch/requeue.h"

#include <filesystem>

#include <fmt/format.h>

namespace halfstep::train {

namespace {

// This program, also where its file has been replaced since it was started.
constexpr const char* own_program = "/proc/self/exe";

void print_share(const detail::NodeShare& share, int cores) {
  fmt::print("ranks {} to {} of {} on this machine, which meet at {}:{}", share.first_rank(),
             share.first_rank() + share.ranks - 1, share.world_size(), share.master_addr,
             share.port);
  if (share.threads > 0)
    fmt::print("; {} thread{} each, of {} cores (OMP_NUM_THREADS says otherwise)", share.threads,
               share.threads == 1 ? "" : "s", cores);
  fmt::print("\n");
}

int run_share(const std::string& ranks, const detail::ProcessCommand& command, const char* name) {
  const int cores = detail::usable_cores();
  auto share = detail::read_node_share(ranks, dist::process_variables(), cores);
  if (share.port == 0) {
    share.port = detail::find_free_port();
  } else if (share.node_rank == 0) {
    HALFSTEP_CHECK_ENVIRONMENT(detail::is_port_free(share.port), "dist-train",
                               "PORT must be free where rank 0 runs, but ", share.port,
                               " is taken; name another in PORT",
                               share.nodes == 1 ? ", or unset it to get a free one" : "");
  }
  print_share(share, cores);
  return detail::supervise({.name = name,
                            .command = command,
                            .first_rank = share.first_rank(),
                            .variables = detail::rank_variables(share)});
}

}  // namespace

int dist_train_command(const std::string& config, const std::string& ranks,
                       const std::vector<std::string>& more, const std::string& program) {
  std::vector<std::string> words{program, "train", config};
  words.insert(words.end(), more.begin(), more.end());
  return run_share(ranks, {own_program, words}, "dist-train");
}

int dist_run_command(const std::string& ranks, const std::vector<std::string>& words) {
  return run_share(ranks, {words.front(), words}, "dist-run");
}

int slurm_train_command(const detail::SlurmTrain& train, bool dry_run, bool requeue) {
  const auto variables = dist::process_variables();
  const auto program = std::filesystem::read_symlink(own_program).string();
  auto words = detail::srun_command(train, program, variables);
  dist::Variables added;
  const auto threads = detail::srun_threads(variables);
  if (!threads.empty()) added["OMP_NUM_THREADS"] = threads;
  if (dry_run) {
    for (const auto& [name, value] : added) fmt::print("{}={} ", name, value);
    fmt::print("{}\n", detail::shell_line(words));
    return 0;
  }
  return detail::run_srun(words, added, requeue);
}

}  // namespace halfstep::train
