#!/usr/bin/env bash
# Usage: scripts/setup_peers.sh
# Makes .venv-peers in the checkout: the libraries of the extra `peers` on top of .venv, whose packages it sees without
# being able to change them, and beside them timm's own tests, which only its source distribution carries.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

read -ra packages < <(.venv/bin/python -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"])')
timm=$(sed -n 's/^timm==//p' constraints.txt)
stamp=.venv-peers/.installed
wanted="$(cat constraints.txt) $(readlink -f .venv/bin/python) $PWD ${packages[*]}"
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

echo "setup: .venv-peers with ${packages[*]} and the tests of timm $timm (100 MB)" >&2
rm -rf .venv-peers
below=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -m venv .venv-peers
own=$(.venv-peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Later on the path than the packages of .venv-peers itself; .pth files of .venv count, so that t2t_vit is found.
printf 'import site; site.addsitedir(%s)\n' "$(.venv/bin/python -c 'import sys; print(repr(sys.argv[1]))' "$below")" \
  > "$own/packages_of_venv.pth"
pip=(.venv-peers/bin/python -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --constraint constraints.txt "${packages[@]}"
"${pip[@]}" download --no-deps --no-binary timm --dest .venv-peers/timm "timm==$timm"
tar -xzf ".venv-peers/timm/timm-$timm.tar.gz" -C .venv-peers/timm --strip-components=1
printf '%s' "$wanted" > "$stamp"
