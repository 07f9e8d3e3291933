#!/bin/sh
# What a published size needs of a slice: sh experiments/pods/run.sh [OUTPUT]
# Compiles the rollout and the update of the 7b's stage 1 for sixteen v5e chips;
# no TPU is needed. Takes a quarter of an hour on two cores. Further sizes,
# slices and programs: the same line with others. Status 2: something does not
# fit.
set -eu
out=${1:-runs/pods}
mkdir -p "$out"
python=${PYTHON:-.venv/bin/python}
for program in rollout update; do
  $python -m lfpc_jax.compile_check --config=configs/stage1.py:7b --size=7b \
    --topology=v5e:4x4 --config.mesh.sizes=4,4 --config.rl.micro_batches=64 \
    --config.data.image_capacity=2048,2048 --only=$program \
    > "$out/7b-v5e-4x4-$program.txt"
  cat "$out/7b-v5e-4x4-$program.txt"
done
