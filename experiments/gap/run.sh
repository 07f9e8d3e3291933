#!/bin/sh
# The size of the gap: sh experiments/gap/run.sh MAIN WORKDIR [SEED ...]
# MAIN is main_table/run.sh's folder: its stage 1 has 16 tokens, its baseline
# 324. Every policy answers in its own view, and at 16 and at 324 tokens.
set -eu
main=$(cd "${1:?usage: run.sh MAIN WORKDIR [SEED ...]}" && pwd)
out=${2:?usage: run.sh MAIN WORKDIR [SEED ...]}
shift 2
[ $# -gt 0 ] || set -- 0 1 2
data=$main/data
. experiments/functions.sh

for seed in "$@"; do
  mkdir -p "$out/$seed"
  ln -sfn "$main/$seed/stage1" "$out/$seed/16"
  ln -sfn "$main/$seed/baseline" "$out/$seed/324"
  for tokens in 9 36 64 144; do
    run=$out/$seed/$tokens
    train "$run" "$seed" stage1 60 --config.gap.tokens=$tokens
    for budget in $tokens 16 324; do
      evaluate "$run" "$run/easy-$budget" easy $budget "'noise',"
    done
  done
done
