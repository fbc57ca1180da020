#!/usr/bin/env bash
# The two long simulations behind the model card. Run again to go on after an interruption; finished ones return at once.
#
#   recipes/xtb_hcno/studies.sh nvt|nve [FOLDER] [DEVICE]
#
# nvt: 64 periodic water molecules, 300 K, Langevin, 20 ps in steps of 0.5 fs, fp32.
# nve: the same box at 300 K, 10 ps in steps of 0.5 fs, fp64.
set -euo pipefail

study=${1:?usage: studies.sh nvt|nve [FOLDER] [DEVICE]}
folder=${2:-out/studies}
device=${3:-auto}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p "$folder"
mosso=("${PYTHON:-python3}" -m mosso.cli)

resume=()
[[ -f $folder/water64_$study.checkpoint.npz ]] && resume=(--resume)
case $study in
  nvt)
    "${mosso[@]}" md examples/water64.extxyz --ensemble nvt --temperature 300 --friction 0.01 --timestep 0.5 --steps 40000 \
      --log-every 20 --write-every 80 --seed 1 --precision fp32 --device "$device" -o "$folder/water64_nvt.extxyz" "${resume[@]}"
    ;;
  nve)
    "${mosso[@]}" md examples/water64.extxyz --ensemble nve --temperature 300 --timestep 0.5 --steps 20000 \
      --log-every 20 --write-every 1000 --seed 2 --precision fp64 --device "$device" -o "$folder/water64_nve.extxyz" "${resume[@]}"
    ;;
  *)
    echo "unknown study $study: nvt or nve" >&2
    exit 2
    ;;
esac
