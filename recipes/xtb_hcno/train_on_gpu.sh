#!/usr/bin/env bash
# One piece of the training run, for machines that are only lent for minutes at a time. Run it until it says "finished".
#
#   recipes/xtb_hcno/train_on_gpu.sh MINUTES [RUN_DIR] [COPY_DIR] [further options of mosso.train.loop]
#
# RUN_DIR (default out/xtb_hcno) holds the checkpoint and has to be there again for the next piece. COPY_DIR, where given, receives
# a copy of it at the end, for machines that lose their disk. PYTHON names the interpreter.
set -euo pipefail

minutes=${1:?usage: train_on_gpu.sh MINUTES [RUN_DIR] [COPY_DIR] [options]}
run_dir=${2:-out/xtb_hcno}
copy_dir=${3:-}
shift "$(($# < 3 ? $# : 3))"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Varying batch sizes fragment the default allocator.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

# Keep what there is even when the piece fails, and report its exit status.
status=0
"${PYTHON:-python3}" -m mosso.train.loop --config recipes/xtb_hcno/train.yaml --out "$run_dir" --minutes "$minutes" "$@" || status=$?
if [[ -n $copy_dir && -d $run_dir ]]; then
  mkdir -p "$copy_dir"
  cp -f "$run_dir"/* "$copy_dir"/
fi
exit "$status"
