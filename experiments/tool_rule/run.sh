#!/bin/sh
# The tool reward: sh experiments/tool_rule/run.sh MAIN WORKDIR [SEED ...]
# MAIN is main_table/run.sh's folder, for its scenes.
set -eu
. experiments/after_main.sh
tokens=${TOKENS:-36}

evaluate "" "$out/pretrained/easy" easy "$tokens" "'truth','noise'"
for seed in "$@"; do
  for rule in none unconditional conditional; do
    run=$out/$seed/$rule
    train "$run" "$seed" stage1 60 --config.gap.tokens="$tokens" \
      --config.reward.tool_rule=$rule
    evaluate "$run" "$run/easy" easy "$tokens" "'truth','noise'"
  done
done
