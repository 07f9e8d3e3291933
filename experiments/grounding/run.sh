#!/bin/sh
# Parts of stage 2: sh experiments/grounding/run.sh MAIN WORKDIR [SEED ...]
# MAIN is main_table/run.sh's folder: every policy begins with its stage 1.
set -eu
. experiments/after_main.sh

for seed in "$@"; do
  run=$out/$seed
  mkdir -p "$run"
  for name in stage1 control stage2; do  # trained and evaluated already
    ln -sfn "$main/$seed/$name" "$run/$name"
  done
  for part in again iou naive innermost; do
    variant=stage2
    case $part in
      again) variant=control; set_fields="--config.data.difficulty=easy" ;;
      iou) set_fields="--config.reward.iou_weight=1.0" ;;
      naive) set_fields="--config.reward.coverage_condition=false" ;;
      innermost) set_fields="--config.reward.innermost_only=true" ;;
    esac
    train "$run/$part" "$seed" $variant 50 "$set_fields" \
      --config.policy.checkpoint="$main/$seed/stage1"
    evaluate "$run/$part" "$run/$part/hard-16" hard 16 "'truth','noise'"
  done
done
