#!/usr/bin/env bash
# Usage: scripts/setup_mindspore.sh
# Makes .venv-mindspore in the checkout, with MindSpore and NumPy as the extra `mindspore` of pyproject.toml pins them:
# an environment of its own, since MindSpore needs numpy<2 and has no wheels for Python 3.13.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "setup: $*" >&2; exit 2; }
read -ra packages < <(.venv/bin/python -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["mindspore"])')
stamp=.venv-mindspore/.installed
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "${packages[*]}" ] && exit 0

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
python=
for candidate in ${PYTHON:-} .venv/bin/python python3 python3.12 python3.11 python3.10; do
  if fits "$candidate"; then python=$candidate; break; fi
done
[ -n "$python" ] || fail "MindSpore needs Python 3.10, 3.11 or 3.12, and none is here; install one"

echo "setup: .venv-mindspore with ${packages[*]} (770 MB)" >&2
if command -v uv >/dev/null; then
  [ -x .venv-mindspore/bin/python ] || uv venv --quiet --python "$python" .venv-mindspore
  uv pip install --quiet --python .venv-mindspore/bin/python "${packages[@]}"
else
  [ -x .venv-mindspore/bin/python ] || "$python" -m venv .venv-mindspore
  .venv-mindspore/bin/python -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi
printf '%s' "${packages[*]}" > "$stamp"
