#!/bin/sh
# The steps of the Dockerfile. They stand here so that `make test-container` can take them in a bare Debian without Docker.
#   container.sh system              Debian's packages, folders, and a user who is not root
#   container.sh install cpu|cuda    the package of the folder /source, in /opt/t2t-vit
set -eu
case "$1" in
system)
    apt-get update
    # The compiler is for the kernels of a CPU, which are compiled on the processor that runs them, and for Triton's on a GPU.
    apt-get install --yes --no-install-recommends ca-certificates g++ python3-dev python3-venv
    rm -rf /var/lib/apt/lists/*
    useradd --uid 10001 --home-dir /runs --no-create-home --shell /usr/sbin/nologin t2t-vit
    mkdir -p /runs /cache
    chmod 1777 /runs /cache # any user may be named with --user
    ;;
install)
    python3 -m venv /opt/t2t-vit
    set -- "$2" /opt/t2t-vit/bin/python -m pip install --no-cache-dir --disable-pip-version-check --constraint /source/constraints.txt
    [ "$1" = cuda ] || set -- "$@" --extra-index-url https://download.pytorch.org/whl/cpu # PyTorch without CUDA, 4 GB less
    shift
    "$@" "/source[export,report]"
    find /opt/t2t-vit -name __pycache__ -type d -prune -exec rm -rf {} +
    ;;
*)
    echo "container.sh: '$1' is neither system nor install" >&2
    exit 2
    ;;
esac
