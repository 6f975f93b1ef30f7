#!/usr/bin/env bash
# Usage: scripts/release.sh            build dist/ from the tag v<version> that HEAD carries, and check it
#        scripts/release.sh --trial    the same of any commit, in a folder that goes again
# Uploads nothing: `twine upload dist/*` is for whoever owns the name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fail() { echo "release: $*" >&2; exit 2; }

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/t2t_vit/version.py)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
if [ "${1:-}" = --trial ]; then
    dist=$place/dist
else
    [ $# -eq 0 ] || fail "usage: scripts/release.sh [--trial]"
    dist=$PWD/dist
    [ -z "$(git status --porcelain)" ] || fail "the working tree has changes; commit them first"
    git tag --points-at HEAD | grep --quiet --line-regexp "v$version" \
        || fail "HEAD has no tag v$version, the version in src/t2t_vit/version.py; tag it: git tag v$version"
    [ ! -e "$dist" ] || fail "dist/ is there already; remove it first"
fi

if [ ! -x .venv-release/bin/twine ]; then
    python3 -m venv .venv-release
    .venv-release/bin/python -m pip install --quiet --disable-pip-version-check build twine
fi

# From what is committed, so that no file of the working tree gets into a package.
echo "building $version"
mkdir "$place/source"
git archive HEAD | tar --extract --directory "$place/source"
.venv-release/bin/python -m build --outdir "$dist" "$place/source" >"$place/build.log" 2>&1 \
    || { tail -n 20 "$place/build.log" >&2; fail "python -m build failed"; }
.venv-release/bin/twine check --strict "$dist"/*
ls -l "$dist"

# By the wheel alone, in a folder that knows nothing of the checkout.
echo "the wheel in a fresh environment"
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    "t2t_vit[export,report] @ file://$(echo "$dist"/*.whl)"
mkdir "$place/elsewhere"
cd "$place/elsewhere"
installed=$("$place/venv/bin/t2t-vit" --version)
[ "${installed##* }" = "$version" ] || fail "t2t-vit --version says '$installed', not $version"
"$place/venv/bin/t2t-vit" quickstart --train_num_samples 500 --val_num_samples 100 --epochs 1 --warmup_length 0
"$place/venv/bin/python" -c "import t2t_vit; print(len(t2t_vit.list_models()), 'networks in', t2t_vit.__version__)"
echo "release: $version is complete; the wheel trains, evaluates, predicts and exports"
