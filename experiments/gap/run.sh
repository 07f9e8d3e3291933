#!/bin/sh
# The size of the gap: sh experiments/gap/run.sh MAIN WORKDIR [SEED ...]
# MAIN is main_table/run.sh's folder: its stage 1 has 16 tokens, its baseline
# 324. Every policy answers in its own view (the selected ones' is 36), and at
# 16 tokens.
set -eu
. experiments/after_main.sh

file=$out/selected.parquet
$python -m lfpc_jax.select_gap --config=configs/tiny.py:stage1 \
  --workdir="$out/select" --config.data.dir="$data" \
  --config.gap.file="$file" "--config.selection.levels=(100,36,16,9)"
for seed in "$@"; do
  run=$out/$seed
  mkdir -p "$run"
  ln -sfn "$main/$seed/stage1" "$run/16"
  ln -sfn "$main/$seed/baseline" "$run/324"
  for tokens in 36 9 100; do
    train "$run/$tokens" "$seed" stage1 60 --config.gap.tokens=$tokens
    evaluate "$run/$tokens" "$run/$tokens/easy-$tokens" easy $tokens "'noise',"
    evaluate "$run/$tokens" "$run/$tokens/easy-16" easy 16 "'noise',"
  done
  train "$run/selected" "$seed" stage1 60 --config.gap.mode=selected \
    --config.gap.file="$file"
  for tokens in 36 16; do
    evaluate "$run/selected" "$run/selected/easy-$tokens" easy $tokens "'noise',"
  done
done
