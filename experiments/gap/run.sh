#!/bin/sh
# The size of the gap: sh experiments/gap/run.sh MAIN WORKDIR [SEED ...]
# MAIN is main_table/run.sh's folder: its stage 1 has 16 tokens, its baseline
# 324. Every policy answers in its own view (the selected ones' is 36), and at
# 16 tokens. Fifteen runs; on two quiet cores five to ten minutes each.
set -eu
. experiments/after_main.sh

file=$out/selected.parquet
$python -m lfpc_jax.select_gap --config=configs/tiny.py:stage1 \
  --workdir="$out/select" --config.data.dir="$data" \
  --config.gap.file="$file" "--config.selection.levels=(100,36,16,9)"

pretrained easy-9 easy-16 easy-36 easy-64 easy-100 easy-324
for seed in "$@"; do
  run=$out/$seed/selected
  train "$run" "$seed" stage1 60 --config.gap.mode=selected \
    --config.gap.file="$file"
  for budget in 36 16; do
    evaluate "$run" easy-$budget
  done
done
# 64 tokens, as 16 and 324, are a view that pretraining has shown.
for tokens in 36 9 100 64; do
  for seed in "$@"; do
    fixed "$seed" $tokens $tokens
  done
done
for seed in "$@"; do
  from_main "$seed" stage1 16 easy-16
  from_main "$seed" baseline 324 easy-16 easy-324
done
