#!/bin/sh
# The main table: sh experiments/main_table/run.sh WORKDIR [SEED ...]
# Trains and evaluates what is not there yet; then ../summarise.py has the table.
set -eu
out=${1:?usage: run.sh WORKDIR [SEED ...]}
shift
[ $# -gt 0 ] || set -- 0 1 2
data=$out/data
. experiments/functions.sh
scenes

for difficulty in easy hard; do
  evaluate "" "$out/pretrained/$difficulty-16" $difficulty 16 "'truth','noise'"
done
# What every budget needs most is first; the full view, which costs most, last.
for seed in "$@"; do
  run=$out/$seed
  train "$run/stage1" "$seed" stage1 60
  for name in stage2 control; do
    train "$run/$name" "$seed" $name 50 --config.policy.checkpoint="$run/stage1"
  done
  evaluate "$run/stage1" "$run/stage1/easy-16" easy 16 "'truth','noise'"
  for name in stage1 stage2 control; do
    evaluate "$run/$name" "$run/$name/hard-16" hard 16 "'truth','noise'"
  done
  train "$run/baseline" "$seed" baseline 60
  evaluate "$run/baseline" "$run/baseline/easy-16" easy 16 "'truth','noise'"
done
for seed in "$@"; do
  for name in baseline stage1; do
    evaluate "$out/$seed/$name" "$out/$seed/$name/easy-324" easy 324 "'noise',"
  done
done
for budget in 36 64 144 324; do  # what it sees without a crop
  evaluate "" "$out/pretrained/easy-$budget" easy $budget "'noise',"
done
