#!/usr/bin/env bash
# Predict the classes of one image or of a folder of images.
set -eu
source "$(dirname "$(readlink -f "$0")")/options.sh"
read_options 'DATA [--checkpoint CKPT] [--arch A] [--output F]' 'checkpoint arch output' "$@"
for name in checkpoint arch output; do
    [[ -z ${value[$name]-} ]] || extra+=("--$name" "${value[$name]}")
done
exec python "$root/infer.py" "$first" "${extra[@]}"
