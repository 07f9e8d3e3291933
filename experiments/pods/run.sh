#!/bin/sh
# What published sizes need of TPUs; none is needed here.
#   sh experiments/pods/run.sh table      the table of four sizes, by formula
#   sh experiments/pods/run.sh [OUTPUT]   compiles the 7b's step
# The second is the stage 1 of README.md on sixteen v5e chips, in the layout that
# fits there. On two cores with other work beside it the encoder took 44 s, the
# rollout 448 s and the update 344 to 883 s. Further sizes, slices and programs: the
# same line with others. Status 2: something does not fit.
set -eu
out=${1:-runs/pods}
python=${PYTHON:-.venv/bin/python}
if [ "$out" = table ]; then
  exec $python -m experiments.pods.table
fi
mkdir -p "$out"
for program in encode rollout update; do
  $python -m lfpc_jax.compile_check --config=configs/stage1.py:7b --size=7b \
    --topology=v5e:4x4 --config.mesh.sizes=4,4 --config.rollout.waves=64 \
    --config.rl.micro_batches=64 --config.rl.rollout_slices=16 \
    --config.data.image_capacity=2048,2048 --config.policy.attention=auto \
    --only=$program > "$out/7b-v5e-4x4-$program.txt" || status=$?
  cat "$out/7b-v5e-4x4-$program.txt"
done
exit "${status:-0}"
