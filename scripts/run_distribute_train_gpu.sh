#!/usr/bin/env bash
# Train on several devices of this machine, a process each.
set -eu
source "$(dirname "$(readlink -f "$0")")/options.sh"
read_options 'CONFIG [--num_devices N] [--device_ids 0,1] [--checkpoint CKPT] [--extra ...]' \
    'num_devices device_ids checkpoint extra' "$@"
count=$(devices "${value[num_devices]-}" "${value[device_ids]-}")
[[ -z ${value[device_ids]-} ]] || export CUDA_VISIBLE_DEVICES=${value[device_ids]}
cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > count ? cores / count : 1))}  # else torchrun says 1 and warns
[[ -z ${value[checkpoint]-} ]] || extra=(--pretrained "${value[checkpoint]}" --exclude_epoch_state False "${extra[@]}")
# A mistake on the line or in the file is said once, here, and not by every process with torchrun's traceback.
python "$root/train.py" --config_path "$first" "${extra[@]}" --print_config >/dev/null
export PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH}
exec python -m t2t_vit.cli.launch --standalone --nproc_per_node "$count" \
    "$root/train.py" --config_path "$first" "${extra[@]}"  # torchrun, with the exit code of what it starts
