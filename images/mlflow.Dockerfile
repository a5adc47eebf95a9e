# MLflow's tracking server, for manifests/components/mlflow: full mlflow, a PostgreSQL driver, boto3 for artifacts on S3. None of
# this project's code is in it. `make image IMAGE="--image mlflow --base ..."`. BASE needs python3 3.11 or newer with venv.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS packages
ARG PIP_EXTRA_INDEX_URL
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ARG PIP_DEFAULT_TIMEOUT
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/venv \
    && printf 'mlflow:x:10001:10001::/tmp:/usr/sbin/nologin\n' >>/etc/passwd \
    && printf 'mlflow:x:10001:\n' >>/etc/group
COPY images/mlflow.lock /locks/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip install --quiet --require-hashes --only-binary :all: -r /locks/mlflow.lock \
    && python3 -m pip check \
    && python3 -m pip uninstall --quiet --yes pip \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv

FROM ${BASE}
COPY --from=packages /etc/passwd /etc/group /etc/
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    USER=mlflow \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /tmp
USER 10001:10001
CMD ["mlflow", "server", "--help"]
ARG VERSION=0
ARG REVISION=unknown
ARG SOURCE=https://example.invalid/sida
ARG BASE
LABEL org.opencontainers.image.title="sida-mlflow" \
      org.opencontainers.image.description="MLflow tracking server with PostgreSQL and S3" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
