#!/bin/sh
# Speed beside peers: sh experiments/speed/run.sh WORKDIR
# The peers get an environment of their own, WORKDIR/peers. Half an hour on two
# cores that do nothing else; timings beside other work mean nothing.
set -eu
out=${1:?usage: sh experiments/speed/run.sh WORKDIR}
python=${PYTHON:-.venv/bin/python}
peers=$out/peers/bin/python

mkdir -p "$out"
if ! [ -e "$out/peers/.complete" ]; then
  $python -m venv "$out/peers"
  # Where pip would fetch a build with CUDA, install the CPU's build first.
  "$peers" -m pip install --quiet torch==2.13.0 transformers==5.23.0 \
    numpy pillow
  touch "$out/peers/.complete"
fi
for size in miniature 100M; do
  rounds=7
  [ $size = miniature ] || rounds=1
  # Both systems are faster when they take an update in slices.
  for program in rollout "update --micro=2"; do
    $python -m experiments.speed.$program --workdir="$out" --peers="$peers" \
      --size=$size --prompts=8 --group=8 --rounds=$rounds
  done
done
for program in "rollout --rounds=5" "update --micro=4"; do
  $python -m experiments.speed.$program --workdir="$out" --peers="$peers" \
    --size=miniature --prompts=16 --group=16
done
$python -m experiments.speed.parts --workdir="$out"
$python -m experiments.speed.sampling
$python -m experiments.speed.resizing
$python -m experiments.speed.prefix --workdir="$out"
$python -m experiments.speed.scaling --workdir="$out"
$python -m experiments.speed.waste --set=data.dir="$out/data" \
  --set=rollout.prompts=8 --steps=11
