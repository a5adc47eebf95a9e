"""Connections to an S3 server and the credentials they sign with."""

from __future__ import annotations

import functools
import logging
import os
import re
from typing import Any
from urllib.parse import urlsplit

import certifi
from botocore.client import BaseClient
from botocore.config import Config
from botocore.loaders import create_loader
from botocore.response import StreamingBody
from botocore.session import Session

from sida import patience
from sida.addresses import checked
from sida.errors import UserError
from sida.masking import hide
from sida.settings import environment
from sida.stores.s3_answers import Bounded
from sida.stores.s3_errors import Redirected, Strange, not_an_address

_service_models = functools.cache(create_loader)  # botocore's descriptions of services, read once a process (40 ms)
TRUNCATED = re.compile(rb"<([\w.-]+:)?IsTruncated>(true|false)</")  # botocore reads whatever else is there as false
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0


def connect(endpoint: str, region: str, connections: int) -> BaseClient:
    """Return a client of ``endpoint`` (https://... or http://...) that sends every request exactly once.

    Repeating is left to ``sida.patience``, which signs anew: a request is signed with its time. Nothing is sent yet, but where
    neither environment nor AWS's credentials file has keys, a cloud's identity is asked for. Raises UserError when the endpoint is
    not an address, and botocore's errors.
    """
    try:
        parts = urlsplit(checked(endpoint, "SIDA_S3_ENDPOINT", ("http", "https")))
    except UserError as error:
        raise not_an_address(endpoint) from error
    if not parts.hostname or parts.path.strip("/"):
        raise not_an_address(endpoint)
    patience.hush_retries()
    logging.getLogger("botocore").setLevel(logging.ERROR)  # it tells where it found credentials
    # The settings cover what botocore's own file of settings could say.
    variables: dict[str, tuple[str | None, ...]] = {"config_file": (None, None, os.devnull, None)}
    if environment().get("AWS_ACCESS_KEY_ID"):
        variables["profile"] = (None, None, None, None)  # not needed, and one that is missing would be an error
    session = Session(variables)
    session.register_component("data_loader", _service_models())
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": 1},
        proxies={},
        # Not every server knows the newer checksums. Bodies are signed, and objects verified by every reader.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "virtual" if parts.hostname.endswith(".amazonaws.com") else "path"},
    )
    hide({"x-amz-security-token": environment().get("AWS_SESSION_TOKEN", "")})
    authorities = environment().get("SSL_CERT_FILE") or certifi.where()
    try:
        client = session.create_client(
            "s3", region, endpoint_url=f"{parts.scheme}://{parts.netloc}", verify=authorities, config=config
        )
    except ValueError as error:
        raise not_an_address(endpoint) from error
    _bound_answers(client)
    client.meta.events.register_last("before-call.s3", _send_at_once)
    client.meta.events.register("before-parse.s3", _refuse_answers)
    return client


def _bound_answers(client: BaseClient) -> None:
    """Bound what botocore reads whole of an answer: all but an object's bytes. Its events come too late for that."""
    session = client._endpoint.http_session
    send = session.send

    def bounded(request: Any) -> Any:
        request.stream_output = True  # or it would be read before we have it; whoever parses it reads it then
        response = send(request)
        response.raw = Bounded(response.raw)
        return response

    session.send = bounded


def _send_at_once(params: dict[str, Any], **_: object) -> None:
    """Send a body with its headers: to ask first whether the server wants it doubles the time of a small write."""
    params["headers"].pop("Expect", None)


def _refuse_answers(operation_model: Any, response_dict: dict[str, Any], **_: object) -> None:
    """Refuse an answer as below, and close what of it was not read: it holds its connection."""
    try:
        _refuse_strange_answers(operation_model, response_dict)
    except (Redirected, Strange):
        if isinstance(response_dict["body"], StreamingBody):
            response_dict["body"].close()
        raise


def _refuse_strange_answers(operation_model: Any, response_dict: dict[str, Any]) -> None:
    """Raise Redirected for a redirect, as a signed request goes to nobody else, and Strange for an answer that is cut or no S3.

    botocore might follow the first and take the second, a proxy's page among them, for an empty list.
    """
    status, body, headers = response_dict["status_code"], response_dict["body"], response_dict["headers"]
    if 300 <= status < 400 and status != 304:
        raise Redirected(status, headers.get("Location", ""), headers.get("x-amz-bucket-region", ""))
    announced = headers.get("Content-Length")
    if announced is not None and not (announced.isascii() and announced.isdigit()):
        raise Strange("its Content-Length is no number")
    if status < 300 and isinstance(body, bytes) and body and headers.get("Content-Type", "").startswith("text/html"):
        raise Strange("a page")
    if isinstance(body, bytes) and len(body) < int(announced or 0) and operation_model.http["method"] != "HEAD":
        raise Strange("it breaks off")
    if operation_model.name == "ListObjectsV2" and status < 300 and TRUNCATED.search(body or b"") is None:
        raise Strange("a list that does not say whether it ends")
