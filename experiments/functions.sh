# What the experiments' scripts share; they set $data, the scenes' folder.
python=${PYTHON:-.venv/bin/python}

scenes() {  # builds the data if it is not there
  for difficulty in easy hard; do
    $python -m lfpc_jax.data.scenes --data_dir="$data" --difficulty=$difficulty
  done
}

train() {  # FOLDER SEED VARIANT STEPS [FLAG ...]
  folder=$1; seed=$2; variant=$3; steps=$4; shift 4
  $python -m lfpc_jax.train --config=configs/tiny.py:"$variant" \
    --workdir="$folder" --config.seed="$seed" --config.data.dir="$data" \
    --config.train.steps="$steps" --config.rollout.prompts=16 \
    --config.rl.micro_batches=4 "$@"
}

evaluate() {  # RUN OR '' FOLDER DIFFICULTY BUDGET PROBES
  $python -m lfpc_jax.evaluate --config=configs/tiny.py:stage1 \
    --checkpoint="$1" --workdir="$2" --config.data.dir="$data" \
    --config.data.difficulty="$3" --config.eval.items=1024 \
    "--config.eval.budgets=($4,)" "--config.eval.probes=($5)" \
    --config.name="$(basename "${1:-pretrained}")"
}
