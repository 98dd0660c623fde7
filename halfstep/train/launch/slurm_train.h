#pragma once
#include "halfstep/dist/launch_environment.h"

#include <string>
#include <vector>

namespace halfstep::train::detail {

/// The words of slurm_train.sh: PARTITION JOB_NAME CONFIG WORK_DIR, then those of `halfstep train`.
struct SlurmTrain {
  std::string partition;
  std::string job_name;
  std::string config;
  std::string work_dir;
  std::vector<std::string> more;
};

/// srun's command line that trains it with `program` (a path that all nodes know), by GPUS (8),
/// GPUS_PER_NODE (the smaller of 8 and GPUS), CPUS_PER_TASK (5) and SRUN_ARGS, which is cut at
/// spaces. Where GPUS_PER_NODE is 0 neither GPUs nor tasks per node are asked for. Throws
/// UsageError for what is no number.
///
/// Difference from slurm_train.sh: it asks for 8 GPUs on the node where GPUS=2 is all it is told.
std::vector<std::string> srun_command(const SlurmTrain& train, const std::string& program,
                                      const dist::Variables& variables);

/// What each task's OMP_NUM_THREADS must be: CPUS_PER_TASK, or "" where it is set already.
std::string srun_threads(const dist::Variables& variables);

/// The words as a line that a shell reads back as them.
std::string shell_line(const std::vector<std::string>& words);

}  // namespace halfstep::train::detail
