#!/usr/bin/env bash
# Measure a checkpoint on the validation images, on one device.
set -eu
source "$(dirname "$(readlink -f "$0")")/options.sh"
read_options 'CONFIG [--device 0] [--checkpoint CKPT] [--extra ...]' 'device checkpoint extra' "$@"
[[ -z ${value[checkpoint]-} ]] || extra=(--pretrained "${value[checkpoint]}" "${extra[@]}")
[[ -z ${value[device]-} ]] || extra=(--device_id "${value[device]}" "${extra[@]}")
exec python "$root/eval.py" --config_path "$first" "${extra[@]}"
