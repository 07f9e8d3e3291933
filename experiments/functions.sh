# What the experiments' scripts share. They set $main, the main table's folder,
# whose policies others go on from, and $data, the scenes'.
# Choices are made on --config.eval.split=validation; the test split that is
# asked here shows what they are worth, and decides nothing.
python=${PYTHON:-.venv/bin/python}
probes="'truth','noise','blank','other'"

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

# RUN DIFFICULTY-BUDGET [PROBES]: evaluates into RUN's folder of that name; all
# probes if none are given. A RUN called 'pretrained' has no checkpoint.
evaluate() {
  name=$(basename "$1"); checkpoint=$1
  [ "$name" != pretrained ] || checkpoint=
  $python -m lfpc_jax.evaluate --config=configs/tiny.py:stage1 \
    --checkpoint="$checkpoint" --workdir="$1/$2" --config.name="$name" \
    --config.data.dir="$data" --config.data.difficulty="${2%-*}" \
    --config.eval.items=1024 "--config.eval.budgets=(${2#*-},)" \
    "--config.eval.probes=(${3-$probes})"
}

main_policy() {  # SEED NAME: trains a policy of the main table, stage 1 first
  case $2 in
    stage1 | baseline) train "$main/$1/$2" "$1" "$2" 60 ;;
    *) train "$main/$1/$2" "$1" "$2" 50 \
      --config.policy.checkpoint="$main/$1/stage1" ;;
  esac
}
