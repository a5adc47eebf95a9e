"""What an API server answers, within bounds: whatever listens at an address may drip, or never end."""

from __future__ import annotations

from typing import Any

from sida.deadline import within
from sida.masking import hide

ANSWER_BYTES = 128 << 20  # a namespace with thousands of pods has tens of MB
ANSWER_SECONDS = 60.0  # for a whole answer, however steadily its bytes come


def whole_body(response: Any) -> bytes:
    """Read an open response of urllib3's to its end. Raises ProtocolError for one that is too large or too slow."""
    from urllib3.exceptions import ProtocolError

    try:
        body = within(ANSWER_SECONDS, lambda: bytes(response.read(ANSWER_BYTES + 1, decode_content=True)))
    except TimeoutError as error:
        response.shutdown()  # to close it would wait for the bytes that do not come
        raise ProtocolError(str(error)) from error
    if len(body) > ANSWER_BYTES:
        response.close()
        raise ProtocolError(f"an answer of more than {ANSWER_BYTES:,} bytes")
    response.release_conn()
    return body


def bound_answers(pool: Any) -> None:
    """Bound the answers that a pool of urllib3's reads itself: those of errors, and all that are not to be streamed.

    What logs us in is masked in what they say.
    """
    from urllib3.exceptions import ProtocolError

    request = pool.request

    def bounded(*given: Any, preload_content: bool = True, **named: Any) -> Any:
        hide(named.get("headers") or {})
        try:
            response = within(ANSWER_SECONDS, lambda: request(*given, preload_content=False, **named))
        except TimeoutError as error:
            raise ProtocolError(str(error)) from error
        if preload_content or response.status >= 300:
            response._body = whole_body(response)  # what its ``data`` is from now on
        return response

    pool.request = bounded
