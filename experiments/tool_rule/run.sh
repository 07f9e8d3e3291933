#!/bin/sh
# The tool reward: sh experiments/tool_rule/run.sh MAIN WORKDIR [SEED ...]
# MAIN is main_table/run.sh's folder, for its scenes.
set -eu
main=$(cd "${1:?usage: run.sh MAIN WORKDIR [SEED ...]}" && pwd)
out=${2:?usage: run.sh MAIN WORKDIR [SEED ...]}
shift 2
[ $# -gt 0 ] || set -- 0 1 2
data=$main/data
tokens=${TOKENS:-64}
. experiments/functions.sh

evaluate "" "$out/pretrained/easy" easy "$tokens" "'truth','noise'"
for seed in "$@"; do
  for rule in none unconditional conditional; do
    run=$out/$seed/$rule
    train "$run" "$seed" stage1 60 --config.gap.tokens="$tokens" \
      --config.reward.tool_rule=$rule
    evaluate "$run" "$run/easy" easy "$tokens" "'truth','noise'"
  done
done
