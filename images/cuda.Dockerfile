# The CUDA worker: what TrainJobs run, and steps with an accelerator. `make image IMAGE="--image cuda --base ..."`, or
# `docker build --file images/cuda.Dockerfile .`. It is the CPU image's recipe with another torch: CUDA's libraries come as wheels, locked
# with hashes, so that the base is plain Python and only the node has a driver (CUDA 13: 580 or newer). There is no compiler, hence
# no torch.compile. BASE needs python3 3.11 to 3.13 with venv, and apt.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS packages
ARG PIP_EXTRA_INDEX_URL
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ARG PIP_DEFAULT_TIMEOUT
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/venv \
    && printf 'sida:x:10001:10001::/tmp:/usr/sbin/nologin\n' >>/etc/passwd \
    && printf 'sida:x:10001:\n' >>/etc/group
WORKDIR /app
COPY requirements.lock images/cpu.lock images/cuda.lock /locks/
# Headers and tools of torch and CUDA serve compilers only.
# hadolint ignore=DL3003,DL3013
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    awk '/^(pip|setuptools)==/,/[^\\]$/' /locks/requirements.lock >/locks/build.lock \
    && python3 -m pip install --quiet --require-hashes -r /locks/build.lock \
    && python3 -m pip install --quiet --require-hashes --no-build-isolation -r /locks/cpu.lock \
    && python3 -m pip install --quiet --require-hashes --no-deps -r /locks/cuda.lock \
    && cd /opt/venv/lib/python3.*/site-packages \
    && rm -rf torch/test torch/include torch/share && find torch/bin -mindepth 1 ! -name torch_shm_manager -delete \
    && find nvidia -type d -name include -prune -exec rm -rf {} + \
    && find nvidia -name '*.a' -delete
COPY LICENSE pyproject.toml ./
COPY sida/__init__.py ./sida/
RUN touch README.md \
    && python3 -m pip install --quiet --no-deps --no-build-isolation --editable . \
    && python3 -m pip check \
    && python3 -m pip uninstall --quiet --yes pip

FROM packages AS sources
COPY LICENSE README.md pyproject.toml ./
COPY sida ./sida
COPY recipes ./recipes
COPY profiles ./profiles
COPY components ./components
COPY pipeline ./pipeline
RUN rm -rf ./*.egg-info && python3 -m compileall -q --invalidation-mode unchecked-hash /app && chmod -R a+rX,go-w /app

# NCCL opens these by name where a node has InfiniBand or RoCE. Debian keeps no old versions to pin: BASE's digest and date say which.
FROM ${BASE} AS system
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ibverbs-providers libibverbs1 librdmacm1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*

FROM system
COPY --from=packages /etc/passwd /etc/group /etc/
COPY --from=packages /opt/venv /opt/venv
COPY --from=sources /app /app
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    USER=sida \
    SIDA_RUNS=/tmp/runs \
    SIDA_CACHE=/tmp/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001
CMD ["sida", "--help"]
ARG VERSION=0
ARG REVISION=unknown
ARG SOURCE=https://example.invalid/sida
ARG BASE
LABEL org.opencontainers.image.title="sida-cuda" \
      org.opencontainers.image.description="SiDA diffusion distillation: steps, command line and training workers, CUDA" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
