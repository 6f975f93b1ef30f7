#!/usr/bin/env bash
# Usage: scripts/setup_beside.sh EXTRA      for example: scripts/setup_beside.sh docs
# Makes .venv-EXTRA in the checkout: the packages of this extra on top of .venv, whose packages it sees without being able
# to change them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra=${1:?usage: scripts/setup_beside.sh EXTRA, for example docs}
beside=.venv-$extra
read -ra packages < <(.venv/bin/python -c '
import sys, tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]])' "$extra")
wanted="$(cat constraints.txt) $(readlink -f .venv/bin/python) $PWD ${packages[*]}"
[ -f "$beside/.installed" ] && [ "$(cat "$beside/.installed")" = "$wanted" ] && exit 0

echo "setup: $beside with ${packages[*]}" >&2
rm -rf "$beside"
below=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -m venv "$beside"
own=$("$beside/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Later on the path than the packages of the new one itself; .pth files of .venv count, so that t2t_vit is found.
printf 'import site; site.addsitedir(%s)\n' "$(.venv/bin/python -c 'import sys; print(repr(sys.argv[1]))' "$below")" \
  > "$own/packages_of_venv.pth"
"$beside/bin/python" -m pip --quiet --disable-pip-version-check install --constraint constraints.txt "${packages[@]}"
printf '%s' "$wanted" > "$beside/.installed"
