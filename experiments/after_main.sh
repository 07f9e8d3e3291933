# The opening of a script that takes MAIN WORKDIR [SEED ...], where MAIN is
# main_table/run.sh's folder: sets $main, $out, $data, and $@ to the seeds.
usage="usage: sh $0 MAIN WORKDIR [SEED ...]"
main=$(cd "${1:?$usage}" && pwd)
out=${2:?$usage}
shift 2
[ $# -gt 0 ] || set -- 0 1 2
data=$main/data
. experiments/functions.sh
