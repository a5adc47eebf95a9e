"""Errors of an S3 server, each in one line that says what to change."""

from __future__ import annotations

import ssl
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError, LocationValueError, NameResolutionError, ReadTimeoutError

from sida.addresses import redact
from sida.errors import AlreadyExists, SidaError, StoreError, StoreUnusable, Unavailable, UserError
from sida.printing import one_line
from sida.stores.base import absent

if TYPE_CHECKING:
    from sida.stores.s3 import S3Store

SKEW_SECONDS = 300.0
STAYING_STATUSES = (501, 505, 507)  # the server cannot do this, or its disk is full
PASSING_STATUSES = (408, 409, 425, 429, *(status for status in range(500, 600) if status not in STAYING_STATUSES))
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
NOT_ANSWERED = (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, HTTPError)
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
)


class Strange(Exception):
    """An answer that no S3 server gives: a proxy's page, or nothing, in its place."""


class Redirected(Exception):
    """An answer that sends the request elsewhere: status, address, and the bucket's region where it is said."""

    def __init__(self, status: int, location: str, region: str) -> None:
        super().__init__(f"redirect {status}")
        self.location, self.region = location, region


def explain(error: Exception, store: S3Store, key: str) -> SidaError:
    """Return this project's error for whatever a request raised: Unavailable if it passes."""
    place = f"{store.address}/{key}" if key else store.address
    endpoint = redact(store.endpoint)
    if isinstance(error, boto.ClientError):
        return _answered(error, store, place, endpoint)
    if isinstance(error, NO_CREDENTIALS):
        return StoreUnusable(
            f"no credentials for {store.address}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, NOT_ANSWERED):
        return _not_answered(error, place, endpoint)
    if isinstance(error, Redirected):
        return _elsewhere(error, store, place, endpoint)
    if isinstance(error, boto.BotoCoreError):
        return UserError(f"{place}: {_line(error)}")
    reason = f" ({error})" if isinstance(error, Strange) else ""  # others hold what was sent
    return _unavailable(place, endpoint, f"does not answer like an S3 server{reason}")


def name_of(endpoint: str) -> str:
    """Return what is away when the server at ``endpoint`` is."""
    return f"the store at {redact(endpoint)}"


def not_an_address(endpoint: str) -> UserError:
    """Return the error for an endpoint that no request can be sent to."""
    return UserError(
        f"SIDA_S3_ENDPOINT={redact(endpoint)[:150]} is not an address: write https://host[:port], without a bucket"
    )


def status_of(error: boto.ClientError) -> int:
    """Return the status that the server answered with."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _answered(error: boto.ClientError, store: S3Store, place: str, endpoint: str) -> SidaError:
    code, message = (str(error.response["Error"].get(part) or "") for part in ("Code", "Message"))
    status = status_of(error)
    if code == "NoSuchBucket":
        return StoreUnusable(f"there is no bucket {store.bucket} at {endpoint}: create it, or change SIDA_STORE")
    kind = str(error.response["ResponseMetadata"]["HTTPHeaders"].get("content-type", ""))
    if status == 404 and kind.startswith("text/") and not code.startswith("NoSuch"):
        return _unavailable(
            place, endpoint, "answers 404, but not like an S3 server"
        )  # a proxy that has lost its server
    if status == 404:
        return absent(place)
    if status == 412:
        return AlreadyExists(f"{place} exists already")
    skew = _skew(error)
    if code == "RequestTimeTooSkewed" or (status == 403 and skew > SKEW_SECONDS):
        return StoreUnusable(
            f"this machine's clock is {f'{skew:.0f} s' if skew else 'too far'} off that of {endpoint}, which refuses its "
            f"requests: set the clock (timedatectl set-ntp true)"
        )
    if code in PASSING_CODES or status in PASSING_STATUSES:
        return _unavailable(place, endpoint, f"answers {status} {code.removeprefix(str(status))}".rstrip())
    if "region" in message.lower():
        return _in_another_region(store, "the bucket's")
    if code in CREDENTIAL_CODES or status in (401, 403):
        return StoreUnusable(
            f"{endpoint} refuses these credentials for {place} ({code or status}): check AWS_ACCESS_KEY_ID, "
            f"AWS_SECRET_ACCESS_KEY and what they may do in bucket {store.bucket}"
        )
    if status == 507:
        return UserError(f"disk full at {endpoint} while writing {place}: free space there, or set SIDA_STORE")
    return StoreError(f"{endpoint} failed for {place}: {code} {_line(message or status)}")


def _elsewhere(error: Redirected, store: S3Store, place: str, endpoint: str) -> SidaError:
    if error.region:
        return _in_another_region(store, _line(error.region)[:30])
    return StoreUnusable(
        f"{endpoint} sends the request for {place} to {_line(redact(error.location))[:100] or 'another address'}; signed "
        f"requests are not sent elsewhere: set SIDA_S3_ENDPOINT to the server's own address (and AWS_REGION to the bucket's)"
    )


def _in_another_region(store: S3Store, region: str) -> SidaError:
    return StoreUnusable(f"bucket {store.bucket} is not in region {store.region}: set AWS_REGION to {region}")


def _not_answered(error: Exception, place: str, endpoint: str) -> SidaError:
    reason = getattr(error, "kwargs", {}).get("error", error)
    if isinstance(error, boto.SSLError) and not _cut_off(reason):
        return StoreUnusable(
            f"no TLS connection to {endpoint}: {_line(reason)}; set SSL_CERT_FILE to its authority, or write "
            f"SIDA_S3_ENDPOINT=http://... if the server has no TLS"
        )
    if isinstance(reason, LocationValueError):
        return not_an_address(endpoint)
    if isinstance(reason, NameResolutionError):
        return _unreachable(endpoint, "its name is not found")
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError):
        refused = "refused" in str(reason).lower()
        return _unreachable(endpoint, "it refuses connections" if refused else "no way to it, or no answer")
    if isinstance(error, boto.ReadTimeoutError | ReadTimeoutError):
        return _unavailable(place, endpoint, "does not answer in time")
    return _unavailable(place, endpoint, "breaks off")


def _unreachable(endpoint: str, reason: str) -> Unavailable:
    return Unavailable(
        f"cannot reach {endpoint} ({reason}): is the server running, and SIDA_S3_ENDPOINT right?",
        name_of(endpoint),
        reason,
    )


def _unavailable(place: str, endpoint: str, reason: str) -> Unavailable:
    return Unavailable(
        f"{endpoint} {reason}, for {place}: run again when it is well", name_of(endpoint), f"it {reason}"
    )


def _cut_off(error: Exception) -> bool:
    """Return whether the connection was lost in the middle of TLS's own talk, as when a server restarts."""
    cause = error.args[0] if error.args else None
    return isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def _skew(error: boto.ClientError) -> float:
    """Return seconds between our clock and the server's, as its answer is dated."""
    date = error.response["ResponseMetadata"]["HTTPHeaders"].get("date")
    try:
        return abs(parsedate_to_datetime(date).timestamp() - time.time()) if date else 0.0
    except (ValueError, OverflowError):
        return 0.0


def _line(error: object) -> str:
    return one_line(str(error), 150)
