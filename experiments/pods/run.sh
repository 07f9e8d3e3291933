#!/bin/sh
# What a published size needs of a slice: sh experiments/pods/run.sh [OUTPUT]
# Compiles the 7b's stage 1 for sixteen v5e chips; no TPU is needed. Takes half
# an hour on two cores. Further sizes and slices: the same line with others.
set -eu
out=${1:-runs/pods}
mkdir -p "$out"
python=${PYTHON:-.venv/bin/python}
$python -m lfpc_jax.compile_check --config=configs/stage1.py:7b --size=7b \
  --topology=v5e:4x4 --config.mesh.sizes=4,4 --config.rl.micro_batches=64 \
  --config.data.image_capacity=2048,2048 | tee "$out/7b-v5e-4x4.txt"
