#!/bin/sh
# The steps of the Dockerfile. They stand here so that `make test-container` can take them in a bare Debian without Docker.
#   container.sh system              Debian's packages, folders, and a user who is not root
#   container.sh install cpu|cuda    the package of the folder /source, in /opt/t2t-vit; for cpu TORCH_INDEX names the package
#                                    index of PyTorch without CUDA, which is 4 GB smaller
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
    if [ "$2" = cpu ]; then
        if [ -z "${TORCH_INDEX:-}" ]; then
            echo "container.sh: the cpu target needs --build-arg TORCH_INDEX=URL; pytorch.org names it for Linux, pip and CPU" >&2
            exit 2
        fi
        export PIP_EXTRA_INDEX_URL="$TORCH_INDEX"
    fi
    python3 -m venv /opt/t2t-vit
    /opt/t2t-vit/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
        --constraint /source/constraints.txt "/source[export,report]"
    find /opt/t2t-vit -name __pycache__ -type d -prune -exec rm -rf {} +
    ;;
*)
    echo "container.sh: '$1' is neither system nor install" >&2
    exit 2
    ;;
esac
