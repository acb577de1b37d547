# Read by dist_train.sh and dist_test.sh: whether PROCESSES is a number, how the processes meet, and how many threads each has.
case "$PROCESSES" in *[!0-9]* | 0)
    echo "PROCESSES must be a number above 0, got '$PROCESSES'; $USAGE" >&2
    exit 2 ;;
esac
NNODES=${NNODES:-1}
if [ "$NNODES" = 1 ] && [ -z "${PORT:-}" ]; then
    RENDEZVOUS=(--standalone)  # one machine: torch takes a free port, so two runs do not collide
else
    RENDEZVOUS=(--nnodes "$NNODES" --node_rank "${NODE_RANK:-0}" --master_addr "${MASTER_ADDR:-127.0.0.1}"
                --master_port "${PORT:-29500}")
fi
CORES=$(nproc)
THREADS=$((CORES > PROCESSES ? CORES / PROCESSES : 1))
if command -v nvidia-smi > /dev/null; then THREADS=1; fi  # the work is on the GPU; data workers take the cores
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$THREADS}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-$THREADS}"
