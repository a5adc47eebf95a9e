"""Connections to an S3 server and the credentials they sign with."""

from __future__ import annotations

from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
)

from sida.errors import UserError
from sida.settings import environment
from sida.stores.base import redact

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
PASSING_STATUSES = (408, 429, 500, 502, 503, 504)


def connect(endpoint: str, region: str, retries: int, backoff_seconds: float, connections: int) -> Minio:
    """A client of ``endpoint`` (https://... or http://...); with no retries every request is sent exactly once.

    Nothing is sent yet. Raises UserError when the endpoint is not an address.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.username:
        raise UserError(f"SIDA_S3_ENDPOINT={redact(endpoint)} is not an address: write https://host[:port]")
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        maxsize=connections,
        retries=urllib3.Retry(
            total=retries,
            backoff_factor=backoff_seconds,
            backoff_jitter=backoff_seconds,
            status_forcelist=PASSING_STATUSES if retries else (),
            raise_on_status=False,
        ),
        cert_reqs="CERT_REQUIRED",
        ca_certs=environment().get("SSL_CERT_FILE") or certifi.where(),
    )
    secure = parts.scheme == "https"
    return Minio(parts.netloc, secure=secure, region=region, http_client=pool, credentials=_credentials())


class _Identity(IamAwsProvider):
    """A pod's web identity or a cloud machine's role; "none" instead of a network error where there is none."""

    def retrieve(self) -> Credentials:
        try:
            return super().retrieve()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ValueError("this machine has no identity") from error


def _credentials() -> Provider:
    """Environment, then AWS credentials file, then identity: the order of AWS's own tools."""
    pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=10), retries=urllib3.Retry(1))
    return ChainedProvider([EnvAWSProvider(), AWSConfigProvider(), _Identity(http_client=pool)])
