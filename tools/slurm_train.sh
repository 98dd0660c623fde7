#!/usr/bin/env bash
# The launch line of OpenMMLab's projects, by `halfstep slurm-train`: submits a job with srun and waits for it.
#
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=…] bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options]
#
# The options are those of `halfstep train`, and --dry-run, which prints srun's command line.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/find_halfstep.sh"
exec "$halfstep" slurm-train "$@"
