#!/usr/bin/env bash
# Usage: scripts/setup_peers.sh
# Makes .venv-peers (100 MB): the extra `peers`, and timm's own tests, which only its source distribution carries.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup_beside.sh peers
timm=$(sed -n 's/^timm==//p' constraints.txt)
[ -d .venv-peers/timm/tests ] && exit 0
python=.venv-peers/bin/python
"$python" -m pip --quiet --disable-pip-version-check download --no-deps --no-binary timm --dest .venv-peers/timm "timm==$timm"
tar -xzf ".venv-peers/timm/timm-$timm.tar.gz" -C .venv-peers/timm --strip-components=1
