# Sourced by the launchers: reads `FIRST [--option value ...] [--extra ...]` into $first, $value[option] and $extra.
# shellcheck shell=bash disable=SC2034
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
# The checkout's own environment serves where the python at hand has no torch.
has_torch='import sys; from importlib.util import find_spec; sys.exit(find_spec("torch") is None)'
if [[ -d $root/.venv ]]; then
    python -c "$has_torch" &>/dev/null && found=0 || found=$?
    [[ $found != 1 && $found != 127 ]] || PATH=$root/.venv/bin:$PATH  # 1: no torch, 127: no python
fi
trap 'exit 143' TERM; trap 'exit 138' USR1  # before exec; python has its own
first='' extra=()
declare -A value=()

fail() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}

# read_options USAGE 'option option ...' "$@"
read_options() {
    local usage=$1 allowed=" $2 " name
    shift 2
    while (($#)); do
        case $1 in
            -h | --help) echo "Usage: $(basename "$0") $usage" && exit 0 ;;
            --extra)
                [[ $allowed == *' extra '* ]] || fail "unknown option '--extra'; usage: $usage"
                shift && extra=("$@") && break ;;
            -*)
                name=${1#--} && name=${name%%=*}
                [[ $1 == --* && $allowed == *" $name "* ]] || fail "unknown option '${1%%=*}'; usage: $usage"
                if [[ $1 == *=* ]]; then
                    value[$name]=${1#*=}
                else
                    [[ $# -gt 1 && $2 != --* ]] || fail "--$name needs a value; usage: $usage"
                    value[$name]=$2 && shift
                fi ;;
            *)
                [[ -z $first ]] || fail "unexpected word '$1'; options of the program go behind --extra"
                first=$1 ;;
        esac
        shift
    done
    [[ -n $first ]] || fail "${usage%% *} is missing; usage: $usage"
}

# devices NUM_DEVICES DEVICE_IDS: how many processes to start; without either, one for each GPU that is visible.
devices() {
    local ids=${2:-${CUDA_VISIBLE_DEVICES:-}} count
    [[ -z $1 || $1 =~ ^[1-9][0-9]*$ ]] || fail "--num_devices takes a whole number of at least 1; not '$1'"
    [[ -z $2 || $2 =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "--device_ids takes numbers such as 0,1,2,3; not '$2'"
    count=$(tr ',' '\n' <<<"$ids" | grep -c . || true)
    [[ -z $1 || -z $2 || $1 -le $count ]] || fail "--num_devices $1 is more than --device_ids $2 names"
    [[ -n $ids ]] || count=$({ nvidia-smi -L 2>/dev/null || true; } | grep -c GPU || true)
    echo "${1:-$((count > 0 ? count : 1))}"
}
