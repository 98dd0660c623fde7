# Sourced by the launch scripts beside it: sets `halfstep` to the command, which is $HALFSTEP where that is set, else the one built in
# this clone, else the one in PATH.
# shellcheck shell=bash
halfstep=${HALFSTEP:-$(dirname -- "${BASH_SOURCE[0]}")/../build/release/halfstep}
if [[ -z ${HALFSTEP:-} && ! -x $halfstep ]]; then
  halfstep=$(command -v halfstep) || {
    echo "error: [$(basename -- "$0")] the command halfstep must be built (make build), in PATH or named in HALFSTEP, but is not" >&2
    exit 1
  }
fi
