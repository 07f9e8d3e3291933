#!/bin/sh
# The main table: sh experiments/main_table/run.sh WORKDIR [SEED ...]
# Trains and evaluates what is not there yet; then ../summarise.py has the table.
set -eu
main=${1:?usage: run.sh WORKDIR [SEED ...]}
shift
[ $# -gt 0 ] || set -- 0 1 2
data=$main/data
. experiments/functions.sh
scenes

for setting in easy-16 hard-16; do
  evaluate "$main/pretrained" $setting
done
# What every budget needs most is first; the full view, which costs most, last.
for seed in "$@"; do
  for name in stage1 stage2 control; do
    main_policy "$seed" $name
  done
  evaluate "$main/$seed/stage1" easy-16
  for name in stage1 stage2 control; do
    evaluate "$main/$seed/$name" hard-16
  done
  main_policy "$seed" baseline
  evaluate "$main/$seed/baseline" easy-16
done
for budget in 36 64 144; do  # accuracy over the budget and over time
  evaluate "$main/pretrained" easy-$budget
  for seed in "$@"; do
    evaluate "$main/$seed/stage1" easy-$budget ""
  done
done
evaluate "$main/pretrained" easy-324
for seed in "$@"; do
  for name in baseline stage1; do
    evaluate "$main/$seed/$name" easy-324
  done
done
