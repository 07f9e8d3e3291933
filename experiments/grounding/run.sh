#!/bin/sh
# Parts of stage 2: sh experiments/grounding/run.sh MAIN WORKDIR [SEED ...]
# MAIN is main_table/run.sh's folder: every policy begins with its stage 1.
set -eu
. experiments/after_main.sh

part() {  # SEED NAME VARIANT FLAG ...: goes on from stage 1, on hard scenes
  run=$out/$1/$2; seed=$1; variant=$3; shift 3
  train "$run" "$seed" "$variant" 50 "$@" \
    --config.policy.checkpoint="$main/$seed/stage1"
  evaluate "$run" hard-16
}

for seed in "$@"; do
  for name in stage1 control stage2; do
    from_main "$seed" $name $name hard-16
  done
  part "$seed" iou stage2 --config.reward.iou_weight=1.0
  part "$seed" naive_iou stage2 --config.reward.iou_weight=1.0 \
    --config.reward.coverage_condition=false
  part "$seed" naive stage2 --config.reward.coverage_condition=false
  part "$seed" again control --config.data.difficulty=easy
  part "$seed" innermost stage2 --config.reward.innermost_only=true
done
