# docker build --target cuda --tag t2t-vit:cuda .
# docker build --target cpu --build-arg TORCH_INDEX=URL --tag t2t-vit:cpu .
# What URL is, and how to run it: docs/howto/containers.md.
FROM debian:trixie-slim AS base
COPY scripts/container.sh /usr/local/bin/container.sh
RUN sh /usr/local/bin/container.sh system
# Whatever is written at run time goes to /runs and /cache, so the rest may be read-only. USER and HOME serve users that
# have no entry in /etc/passwd.
ENV PATH=/opt/t2t-vit/bin:$PATH \
    HOME=/runs \
    USER=t2t-vit \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    MPLCONFIGDIR=/cache/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton
WORKDIR /runs
VOLUME ["/runs", "/cache"]
ENTRYPOINT ["t2t-vit"]
CMD ["--help"]

FROM base AS build-cpu
ARG TORCH_INDEX
COPY . /source
RUN sh /source/scripts/container.sh install cpu

FROM base AS build-cuda
COPY . /source
RUN sh /source/scripts/container.sh install cuda

FROM base AS cuda
COPY --from=build-cuda /opt/t2t-vit /opt/t2t-vit
USER 10001
# Read by NVIDIA's container toolkit.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM base AS cpu
COPY --from=build-cpu /opt/t2t-vit /opt/t2t-vit
USER 10001
