#!/bin/sh
# The main table: sh experiments/main_table/run.sh WORKDIR [SEED ...]
# Trains and evaluates what is not there yet; then summarise.py makes the table.
set -eu
out=${1:?usage: run.sh WORKDIR [SEED ...]}
shift
[ $# -gt 0 ] || set -- 0 1 2
python=${PYTHON:-.venv/bin/python}
data=$out/data

for difficulty in easy hard; do
  $python -m lfpc_jax.data.scenes --data_dir="$data" --difficulty=$difficulty
done

train() {  # SEED NAME VARIANT [FLAG ...]
  seed=$1; name=$2; variant=$3; shift 3
  $python -m lfpc_jax.train --config=configs/tiny.py:"$variant" \
    --workdir="$out/$seed/$name" --config.seed="$seed" \
    --config.data.dir="$data" --config.rollout.prompts=16 \
    --config.rl.micro_batches=4 "$@"
}

evaluate() {  # POLICY'S RUN OR '' FOLDER DIFFICULTY BUDGET PROBES
  $python -m lfpc_jax.evaluate --config=configs/tiny.py:stage1 \
    --checkpoint="$1" --workdir="$2" --config.data.dir="$data" \
    --config.data.difficulty="$3" --config.eval.items=1024 \
    "--config.eval.budgets=($4,)" "--config.eval.probes=($5)" \
    --config.name="$(basename "${1:-pretrained}")"
}

for difficulty in easy hard; do
  evaluate "" "$out/pretrained/$difficulty-16" $difficulty 16 "'truth','noise'"
done
# What every budget needs most is first; the full view, which costs most, last.
for seed in "$@"; do
  run=$out/$seed
  train "$seed" stage1 stage1 --config.train.steps=60
  for name in stage2 control; do
    train "$seed" $name $name --config.train.steps=50 \
      --config.policy.checkpoint="$run/stage1"
  done
  evaluate "$run/stage1" "$run/stage1/easy-16" easy 16 "'truth','noise'"
  for name in stage1 stage2 control; do
    evaluate "$run/$name" "$run/$name/hard-16" hard 16 "'truth','noise'"
  done
  train "$seed" baseline baseline --config.train.steps=60
  evaluate "$run/baseline" "$run/baseline/easy-16" easy 16 "'truth','noise'"
done
for seed in "$@"; do
  for name in baseline stage1; do
    evaluate "$out/$seed/$name" "$out/$seed/$name/easy-324" easy 324 "'noise',"
  done
done
evaluate "" "$out/pretrained/easy-324" easy 324 "'noise',"
