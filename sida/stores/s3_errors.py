"""What went wrong with an S3 server, in one line that says what to change."""

from __future__ import annotations

import ssl
import time
from email.utils import parsedate_to_datetime
from typing import Protocol
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from sida.errors import NotFound, SidaError, StoreError, StoreUnusable, Unavailable, UserError
from sida.stores.base import redact
from sida.stores.s3_client import PassingAnswer

SKEW_SECONDS = 300.0
PASSING_CODES = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted"}
CREDENTIAL_CODES = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "InvalidSecurity",
    "AuthorizationHeaderMalformed",
}


class Described(Protocol):
    """What an error's message needs of a store."""

    endpoint: str
    bucket: str
    region: str

    @property
    def address(self) -> str: ...


def explain(error: Exception, store: Described, key: str) -> SidaError:
    """This project's error for one of minio's, urllib3's, or the credential providers' ValueError: Unavailable if it passes."""
    where = f"{store.address}/{key}" if key else store.address
    endpoint = redact(store.endpoint)
    if isinstance(error, S3Error):
        return _answered(error, store, where, endpoint)
    if isinstance(error, HTTPError):
        return _not_answered(error, where, endpoint)
    if isinstance(error, ServerError | InvalidResponseError | ParseError):
        return StoreError(f"{endpoint} does not answer like an S3 server for {where}: {_line(error)}")
    if "providers fail" in str(error):
        return StoreUnusable(
            f"no credentials for {store.address}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    return UserError(f"{where}: {_line(error)}")


def name_of(endpoint: str) -> str:
    """What is away when the server at ``endpoint`` is."""
    return f"the store at {redact(endpoint)}"


def _answered(error: S3Error, store: Described, where: str, endpoint: str) -> SidaError:
    code, status = error.code or "", error.response.status
    if code == "NoSuchBucket":
        return StoreUnusable(f"there is no bucket {store.bucket} at {endpoint}: create it, or change SIDA_STORE")
    if code in ("NoSuchKey", "NoSuchObject", "ResourceNotFound") or status == 404:
        return NotFound(f"no object at {where}")
    if code == "RequestTimeTooSkewed" or (status == 403 and _skew(error) > SKEW_SECONDS):
        return StoreUnusable(
            f"this machine's clock is {_skew(error):.0f} s off that of {endpoint}, which refuses its "
            f"requests: set the clock (timedatectl set-ntp true)"
        )
    if code in PASSING_CODES or status == 409:
        return _unavailable(where, endpoint, f"answers {status} {code}")
    if code in ("PermanentRedirect", "TemporaryRedirect") or "region" in (error.message or "").lower():
        return StoreUnusable(f"bucket {store.bucket} is not in region {store.region}: set AWS_REGION to the bucket's")
    if code in CREDENTIAL_CODES or status in (401, 403):
        return StoreUnusable(
            f"{endpoint} refuses these credentials for {where} ({code}): check AWS_ACCESS_KEY_ID, "
            f"AWS_SECRET_ACCESS_KEY and what they may do in bucket {store.bucket}"
        )
    if status == 507:
        return UserError(f"disk full at {endpoint} while writing {where}: free space there, or set SIDA_STORE")
    return StoreError(f"{endpoint} failed for {where}: {code} {_line(error.message or status)}")


def _not_answered(error: HTTPError, where: str, endpoint: str) -> SidaError:
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
    if isinstance(reason, PassingAnswer):
        return _unavailable(where, endpoint, f"answers {reason.status} {reason.said}".rstrip())
    if isinstance(reason, SSLError) and not _cut_off(reason):
        return StoreUnusable(
            f"no TLS connection to {endpoint}: {_line(reason)}; set SSL_CERT_FILE to its authority, or write "
            f"SIDA_S3_ENDPOINT=http://... if the server has no TLS"
        )
    if isinstance(reason, LocationValueError):
        return UserError(f"SIDA_S3_ENDPOINT={endpoint} is not an address: write https://host[:port]")
    if isinstance(reason, NameResolutionError):
        return _unreachable(endpoint, "its name is not found")
    if isinstance(reason, NewConnectionError | ConnectTimeoutError):
        refused = "refused" in str(reason).lower()
        return _unreachable(endpoint, "it refuses connections" if refused else "no way to it, or no answer")
    if isinstance(reason, ReadTimeoutError):
        return _unavailable(where, endpoint, "does not answer in time")
    return _unavailable(where, endpoint, "breaks off")


def _unreachable(endpoint: str, reason: str) -> Unavailable:
    return Unavailable(
        f"cannot reach {endpoint} ({reason}): is the server running, and SIDA_S3_ENDPOINT right?",
        name_of(endpoint),
        reason,
    )


def _unavailable(where: str, endpoint: str, reason: str) -> Unavailable:
    return Unavailable(
        f"{endpoint} {reason}, for {where}: run again when it is well", name_of(endpoint), f"it {reason}"
    )


def _cut_off(error: SSLError) -> bool:
    """Whether the connection was lost in the middle of TLS's own talk, as when a server restarts."""
    cause = error.args[0] if error.args else None
    return isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def _skew(error: S3Error) -> float:
    """Seconds between our clock and the server's, as its answer is dated."""
    date = error.response.headers.get("Date")
    try:
        return abs(parsedate_to_datetime(date).timestamp() - time.time()) if date else 0.0
    except ValueError:
        return 0.0


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
