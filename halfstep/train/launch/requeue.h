#pragma once
#include "halfstep/dist/launch_environment.h"

#include <string>
#include <vector>

namespace halfstep::train::detail {

/// Whether Slurm has put this batch job back into its queue before (SLURM_RESTART_COUNT).
bool is_requeued_job(const dist::Variables& variables);

/// Asks Slurm to put this batch job back into its queue (scontrol requeue), which ends it soon.
/// Returns what to tell the user: what was done, or why it could not be.
std::string requeue_job(const dist::Variables& variables);

/// Runs srun with `words` (srun's own is the first) and `variables` besides this process's, and
/// waits for it. With `requeue`, runs it again, with --resume, as long as it ends with the status
/// of a run that SIGUSR1 stopped. SIGTERM, SIGHUP and SIGUSR1 are passed on to it; a terminal sends
/// SIGINT to both. Returns its last status. Throws EnvironmentError where there is no srun.
int run_srun(std::vector<std::string> words, const dist::Variables& variables, bool requeue);

}  // namespace halfstep::train::detail
