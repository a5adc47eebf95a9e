"""What MLflow's server answers, within bounds: it may drip, never end, ask for a day's patience, or be no MLflow at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sida.deadline import within

if TYPE_CHECKING:
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter

ANSWER_SECONDS = 100.0  # for one request with its retries: MLflow waits 30 s for the next bytes, three times
WHOLE_SECONDS = 600.0  # for all requests that bring one run up to date
ANSWER_BYTES = 64 << 20  # a page of a metric's points has a few MB
_BLOCK = 1 << 16
CREATES = ("/runs/create", "/model-versions/create", "/logged-models")  # sent again they would make another one


@contextmanager
def bounded() -> Iterator[None]:
    """Bound every answer that MLflow's client reads, in bytes and seconds, and all of them in seconds.

    What makes something is sent once, on a connection of its own; tries to connect are repeated as MLflow's client is told to.
    """
    from requests.adapters import HTTPAdapter
    from requests.exceptions import ReadTimeout

    until, send = time.monotonic() + WHOLE_SECONDS, HTTPAdapter.send

    def send_bounded(self: HTTPAdapter, request: PreparedRequest, stream: bool = False, **more: Any) -> Response:
        def exchange() -> Response:
            way = self
            if request.method == "POST" and urlsplit(request.url or "").path.endswith(CREATES):
                way = HTTPAdapter(max_retries=self.max_retries.new(read=0, status=0, other=0))
            return _read(send(way, request, stream=True, **more))

        try:
            return within(min(ANSWER_SECONDS, until - time.monotonic()), exchange)
        except TimeoutError as error:
            raise ReadTimeout(str(error), request=request) from error

    HTTPAdapter.send = send_bounded  # its sessions are its own
    try:
        yield
    finally:
        HTTPAdapter.send = send


def _read(response: Response) -> Response:
    """Return a response with its body read. Raises ContentDecodingError, which MLflow reports, for an endless one."""
    from requests.exceptions import ContentDecodingError

    body = bytearray()
    for block in response.iter_content(_BLOCK):
        body += block
        if len(body) > ANSWER_BYTES:
            response.close()
            raise ContentDecodingError(f"an answer of more than {ANSWER_BYTES:,} bytes")
    response._content = bytes(body)
    return response
