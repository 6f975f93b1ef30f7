#!/usr/bin/env bash
# Train on several devices of this machine, a process each.
set -eu
source "$(dirname "$(readlink -f "$0")")/options.sh"
read_options 'CONFIG [--num_devices N] [--device_ids 0,1] [--checkpoint CKPT] [--extra ...]' \
    'num_devices device_ids checkpoint extra' "$@"
count=$(devices "${value[num_devices]-}" "${value[device_ids]-}")
[[ -z ${value[device_ids]-} ]] || export CUDA_VISIBLE_DEVICES=${value[device_ids]}
[[ -z ${value[checkpoint]-} ]] || extra=(--pretrained "${value[checkpoint]}" --exclude_epoch_state False "${extra[@]}")
exec torchrun --standalone --nproc_per_node "$count" "$root/train.py" --config_path "$first" "${extra[@]}"
