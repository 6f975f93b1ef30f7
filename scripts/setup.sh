#!/usr/bin/env bash
# Usage: scripts/setup.sh EXTRAS      for example: scripts/setup.sh export,report
# Makes .venv in the checkout and installs the package with these extras, at the versions of constraints.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=${1:?usage: scripts/setup.sh EXTRAS, for example export,report}
wanted="$(cat pyproject.toml constraints.txt) $extras"
[ -f ".venv/.installed-$extras" ] && [ "$(cat ".venv/.installed-$extras")" = "$wanted" ] && exit 0

fail() { echo "setup: $*" >&2; exit 2; }
fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
python=
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
  if fits "$candidate"; then python=$candidate; break; fi
done
[ -n "$python" ] || fail "Python 3.11, 3.12 or 3.13 is missing; install it, or name it: make PYTHON=/path/to/python"

echo "setup: .venv with t2t_vit[$extras] (torch is large: some minutes the first time)" >&2
if command -v uv >/dev/null; then
  [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
  uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable ".[$extras]"
else
  [ -x .venv/bin/python ] || "$python" -m venv .venv || fail "Python's venv is missing; on Debian: apt-get install python3-venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$extras]"
fi
printf '%s' "$wanted" > ".venv/.installed-$extras"
