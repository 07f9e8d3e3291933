# The opening of a script that takes MAIN WORKDIR [SEED ...], where MAIN is
# main_table/run.sh's folder: sets $main, $out, $data, and $@ to the seeds.
# What MAIN has is taken as it is; what it lacks is made there.
usage="usage: sh $0 MAIN WORKDIR [SEED ...]"
mkdir -p "${1:?$usage}" "${2:?$usage}"
main=$(cd "$1" && pwd)
out=$2
shift 2
[ $# -gt 0 ] || set -- 0 1 2
data=$main/data
. experiments/functions.sh
scenes

link() {  # SEED NAME OTHER: MAIN's policy NAME, in this experiment OTHER
  mkdir -p "$out/$1"
  ln -sfn "$main/$1/$2" "$out/$1/$3"
}

pretrained() {  # SETTING ...: before training; the same for all experiments
  for setting in "$@"; do
    [ -e "$main/pretrained/$setting/evaluation.json" ] ||
      evaluate "$main/pretrained" "$setting"
  done
  ln -sfn "$main/pretrained" "$out/pretrained"
}

from_main() {  # SEED NAME OTHER SETTING ...: a policy of the main table, linked
  link "$1" "$2" "$3"
  run=$main/$1/$2; seed=$1; name=$2; shift 3
  trained=
  for setting in "$@"; do
    [ ! -e "$run/$setting/evaluation.json" ] || continue
    [ -n "$trained" ] || main_policy "$seed" "$name"
    trained=yes
    evaluate "$run" "$setting"
  done
}

fixed() {  # SEED TOKENS OTHER: stage 1 with this gap, in its view and at 16
  if ! [ -e "$main/$1/gap-$2/easy-16/evaluation.json" ]; then
    train "$main/$1/gap-$2" "$1" stage1 60 --config.gap.tokens="$2"
    for budget in "$2" 16; do
      evaluate "$main/$1/gap-$2" easy-"$budget"
    done
  fi
  link "$1" gap-"$2" "$3"
}
