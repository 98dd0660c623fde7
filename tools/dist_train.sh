#!/usr/bin/env bash
# The launch line of OpenMMLab's projects, by `halfstep dist-train`: N processes on this machine, or its share of a job's.
#
#   bash tools/dist_train.sh CONFIG N [options of halfstep train]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=HOST [PORT=29500] bash tools/dist_train.sh CONFIG N …     on each of two machines
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/find_halfstep.sh"
exec "$halfstep" dist-train "$@"
