#!/usr/bin/env bash
# Test in several processes: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [flags of tools/test.py]
set -eu
USAGE="usage: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [flags of tools/test.py]"
CONFIG=${1:?$USAGE}
CHECKPOINT=${2:?$USAGE}
PROCESSES=${3:?$USAGE}
. "$(dirname "$0")/dist_env.sh"
exec "${PYTHON:-python}" -m mmrev.cli.launch --nproc_per_node "$PROCESSES" "${RENDEZVOUS[@]}" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
