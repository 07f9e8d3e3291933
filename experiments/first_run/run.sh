#!/bin/sh
# One seed of baseline, stage 1 and a short stage 2, evaluated on held-out
# scenes. From the repository's root, after `make setup`:
#   sh experiments/first_run/run.sh runs/first_run
set -eu
out=$1
python=.venv/bin/python
data=--config.data.dir=$out/data
$python -m lfpc_jax.data.scenes --data_dir="$out/data" --difficulty=easy
$python -m lfpc_jax.data.scenes --data_dir="$out/data" --difficulty=hard
for variant in baseline stage1; do
  $python -m lfpc_jax.train --config=configs/tiny.py:$variant \
    --workdir="$out/$variant" "$data"
done
$python -m lfpc_jax.train --config=configs/tiny.py:stage2 \
  --workdir="$out/stage2" "$data" --config.train.steps=30 \
  --config.policy.checkpoint="$out/stage1"

evaluate() {  # difficulty, run ('' for the pretrained policy)
  $python -m lfpc_jax.evaluate --config=configs/tiny.py:stage1 "$data" \
    --checkpoint="${2:+$out/$2}" --workdir="$out/evaluation/$1-${2:-pretrained}" \
    --config.data.difficulty="$1" --config.eval.items=256 \
    "--config.eval.budgets=(16,)" "--config.eval.probes=('truth','noise')"
}
for run in "" baseline stage1; do evaluate easy "$run"; done
for run in stage1 stage2; do evaluate hard "$run"; done
