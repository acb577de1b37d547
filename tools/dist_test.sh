#!/usr/bin/env bash
# Test in several processes: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [flags of tools/test.py]
set -eu
CONFIG=$1
CHECKPOINT=$2
PROCESSES=$3
. "$(dirname "$0")/dist_env.sh"
exec "${PYTHON:-python}" -m mmrev.cli.launch --nproc_per_node "$PROCESSES" "${RENDEZVOUS[@]}" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
