#pragma once
#include "halfstep/train/launch/slurm_train.h"

#include <string>
#include <vector>

namespace halfstep::train {

/// `halfstep dist-train CONFIG N …`: trains on N processes of this machine, or on this machine's
/// share of them. `more` are the words for `halfstep train`, `program` is what was typed to start
/// this one. Returns the exit status (see detail::supervise).
int dist_train_command(const std::string& config, const std::string& ranks,
                       const std::vector<std::string>& more, const std::string& program);

/// `halfstep dist-run N PROGRAM …`: the same with any program, given as its words.
int dist_run_command(const std::string& ranks, const std::vector<std::string>& words);

/// `halfstep slurm-train …`: submits it with srun, or prints srun's command line where `dry_run`.
/// With `requeue` it is submitted again, to resume, each time SIGUSR1 has stopped it. Returns the
/// exit status.
int slurm_train_command(const detail::SlurmTrain& train, bool dry_run, bool requeue);

}  // namespace halfstep::train
