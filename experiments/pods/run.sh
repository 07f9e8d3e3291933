#!/bin/sh
# What published sizes need of TPUs; none is needed here.
#   sh experiments/pods/run.sh table      the table of four sizes, by formula
#   sh experiments/pods/run.sh [OUTPUT]   compiles the 7b's rollout and update
# The second is the stage 1 of README.md on sixteen v5e chips, with XLA's own
# attention, and takes a quarter of an hour on two cores. Further sizes, slices
# and programs: the same line with others. Status 2: something does not fit.
set -eu
out=${1:-runs/pods}
python=${PYTHON:-.venv/bin/python}
if [ "$out" = table ]; then
  exec $python -m experiments.pods.table
fi
mkdir -p "$out"
for program in rollout update; do
  $python -m lfpc_jax.compile_check --config=configs/stage1.py:7b --size=7b \
    --topology=v5e:4x4 --config.mesh.sizes=4,4 --config.rl.micro_batches=64 \
    --config.data.image_capacity=2048,2048 --config.policy.attention=xla \
    --only=$program > "$out/7b-v5e-4x4-$program.txt" || status=$?
  cat "$out/7b-v5e-4x4-$program.txt"
done
exit "${status:-0}"
