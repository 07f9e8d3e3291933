#!/bin/sh
# The size of the gap: sh experiments/gap/run.sh MAIN WORKDIR [SEED ...]
# MAIN is main_table/run.sh's folder: its stage 1 has 16 tokens, its baseline
# 324. Every policy answers in its own view (the selected ones' is 36), and at
# 16 tokens. Twelve runs; on two quiet cores five to ten minutes each.
set -eu
. experiments/after_main.sh

file=$out/selected.parquet
$python -m lfpc_jax.select_gap --config=configs/tiny.py:stage1 \
  --workdir="$out/select" --config.data.dir="$data" \
  --config.gap.file="$file" "--config.selection.levels=(100,36,16,9)"
fixed() {  # SEED TOKENS
  run=$out/$1/$2
  train "$run" "$1" stage1 60 --config.gap.tokens="$2"
  for budget in "$2" 16; do
    evaluate "$run" "$run/easy-$budget" easy "$budget" "'noise',"
  done
}

for seed in "$@"; do
  run=$out/$seed
  mkdir -p "$run"
  ln -sfn "$main/$seed/stage1" "$run/16"
  ln -sfn "$main/$seed/baseline" "$run/324"
  train "$run/selected" "$seed" stage1 60 --config.gap.mode=selected \
    --config.gap.file="$file"
  for budget in 36 16; do
    evaluate "$run/selected" "$run/selected/easy-$budget" easy $budget \
      "'noise',"
  done
done
for tokens in 36 9 100; do
  for seed in "$@"; do
    fixed "$seed" $tokens
  done
done
