# The CPU image: the light steps of the DAG on a cluster, and the whole DAG on a laptop. `make image` builds it with docker, podman or
# buildah, resolves BASE to a digest, and passes the labels' values. BASE needs python3 3.11 or newer with venv.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# What changes seldom and weighs most: one layer that images of different commits share.
FROM ${BASE} AS packages
# Where pip finds packages; credentials belong in a pip configuration file (the secret `pip`), never here. TORCH names another torch than
# that of torch.lock, by its version alone: PyPI's, or a wheel built elsewhere, whose hash only you know.
ARG TORCH
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ARG PIP_DEFAULT_TIMEOUT
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/venv \
    && printf 'sida:x:10001:10001::/tmp:/usr/sbin/nologin\n' >>/etc/passwd \
    && printf 'sida:x:10001:\n' >>/etc/group
WORKDIR /app
COPY requirements.lock images/cpu.lock images/torch.lock /locks/
# The tools that build sdists (kfp is one) come from the lock too, hence no build isolation. Headers, tests and tools of torch
# (200 MB) serve compilers only.
# hadolint ignore=DL3003,DL3013
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    awk '/^(pip|setuptools)==/,/[^\\]$/' /locks/requirements.lock >/locks/build.lock \
    && python3 -m pip install --quiet --require-hashes -r /locks/build.lock \
    && python3 -m pip install --quiet --require-hashes --no-build-isolation -r /locks/cpu.lock \
    && if [ -n "${TORCH}" ]; then python3 -m pip install --quiet --no-deps "${TORCH}"; \
       else python3 -m pip install --quiet --require-hashes --no-deps -r /locks/torch.lock; fi \
    && cd /opt/venv/lib/python3.*/site-packages/torch \
    && rm -rf test include share && find bin -mindepth 1 ! -name torch_shm_manager -delete
# sida is installed editable, so that the tree is that of a checkout: recipes by name and the digests of the steps' code come out
# the same. That takes its version and no more of its source.
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
# Compiled here, as a read-only root cannot keep what Python would compile at each start.
RUN rm -rf ./*.egg-info && python3 -m compileall -q --invalidation-mode unchecked-hash /app && chmod -R a+rX,go-w /app

FROM ${BASE}
# No RUN from here on: nothing of the machine that builds can stay behind.
COPY --from=packages /etc/passwd /etc/group /etc/
COPY --from=packages /opt/venv /opt/venv
COPY --from=sources /app /app
# Everything that is written goes under /tmp. USER is also read by getpass, where a cluster gives a user id without a name.
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
# Last, as they change with every commit and the layers above seldom do.
ARG VERSION=0
ARG REVISION=unknown
ARG SOURCE=https://example.invalid/sida
ARG BASE
LABEL org.opencontainers.image.title="sida" \
      org.opencontainers.image.description="SiDA diffusion distillation as a Kubeflow pipeline: steps and command line, CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
