#!/usr/bin/env bash
# Train in several processes, one per GPU, or on the CPU: tools/dist_train.sh CONFIG PROCESSES [flags of tools/train.py]
# NNODES, NODE_RANK, MASTER_ADDR and PORT specify how several machines find each other.
set -eu
USAGE="usage: tools/dist_train.sh CONFIG PROCESSES [flags of tools/train.py]"
CONFIG=${1:?$USAGE}
PROCESSES=${2:?$USAGE}
. "$(dirname "$0")/dist_env.sh"
exec "${PYTHON:-python}" -m mmrev.cli.launch --nproc_per_node "$PROCESSES" "${RENDEZVOUS[@]}" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
