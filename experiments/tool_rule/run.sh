#!/bin/sh
# The tool reward: sh experiments/tool_rule/run.sh MAIN WORKDIR [SEED ...]
# MAIN is main_table/run.sh's folder. Each rule at two views: of 36 tokens, of
# which little can be read without a crop, and the full one of 324, where the
# policy can do without. The conditional rule is that of the gap's 36 tokens
# and of the main table's baseline.
set -eu
. experiments/after_main.sh

rule() {  # SEED TOKENS RULE VARIANT FLAG ...
  run=$out/$1/$3-$2; seed=$1; setting=easy-$2; rule=$3; variant=$4; shift 4
  train "$run" "$seed" "$variant" 60 --config.reward.tool_rule="$rule" "$@"
  evaluate "$run" "$setting"
}

pretrained easy-36 easy-324
for seed in "$@"; do
  fixed "$seed" 36 conditional-36
  for name in none unconditional; do
    rule "$seed" 36 $name stage1 --config.gap.tokens=36
  done
done
for seed in "$@"; do
  from_main "$seed" baseline conditional-324 easy-324
  for name in none unconditional; do
    rule "$seed" 324 $name baseline
  done
done
