"""Connections to an S3 server and the credentials they sign with."""

from __future__ import annotations

import re
from typing import Any
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

from sida import patience
from sida.errors import UserError
from sida.settings import environment
from sida.stores.base import redact

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
STAYING_STATUSES = (501, 505, 507)  # the server cannot do this, or its disk is full
PASSING_STATUSES = (408, 425, 429, *(status for status in range(500, 600) if status not in STAYING_STATUSES))
_CODE = re.compile(rb"<Code>(\w+)</Code>")


def connect(endpoint: str, region: str, *, again: bool, connections: int) -> Minio:
    """A client of ``endpoint`` (https://... or http://...); unless ``again``, every request is sent exactly once.

    With it a blip costs no more than the request that met it: of a large upload, one part. Longer waits are not for here, for a
    request is signed with its time. Nothing is sent yet. Raises UserError when the endpoint is not an address.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.username:
        raise UserError(f"SIDA_S3_ENDPOINT={redact(endpoint)} is not an address: write https://host[:port]")
    patience.hush_retries()
    retry = urllib3.Retry(
        total=2,
        connect=1,
        read=1,
        backoff_factor=patience.FIRST_PAUSE,
        backoff_jitter=patience.FIRST_PAUSE,
        status_forcelist=PASSING_STATUSES,
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    pool = _Pool(
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        maxsize=connections,
        retries=retry if again else urllib3.Retry(0, raise_on_status=False),
        cert_reqs="CERT_REQUIRED",
        ca_certs=environment().get("SSL_CERT_FILE") or certifi.where(),
    )
    secure = parts.scheme == "https"
    return Minio(parts.netloc, secure=secure, region=region, http_client=pool, credentials=_credentials())


class PassingAnswer(urllib3.exceptions.HTTPError):
    """The server, or a proxy before it, is not able to answer now; ``said`` is S3's code, if it gave one."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"status {status} {said}".rstrip())
        self.status, self.said = status, said


class _Pool(urllib3.PoolManager):
    """Raises PassingAnswer before minio looks for XML in the answer: that of a proxy is HTML, plain text, or nothing."""

    def urlopen(self, method: str, url: str, redirect: bool = True, **given: Any) -> Any:  # type: ignore[override]
        response = super().urlopen(method, url, redirect=redirect, **given)
        if response.status in PASSING_STATUSES:
            try:
                code = _CODE.search(response.data or b"")
            finally:
                response.release_conn()
            raise PassingAnswer(response.status, code[1].decode() if code else "")
        return response


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
