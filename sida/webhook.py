"""A JSON message to a webhook. Its address is a secret, because anyone who has it can post: no message, log or error holds it."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from sida.deadline import within

if TYPE_CHECKING:
    from urllib3 import PoolManager

ATTEMPTS = 4
PAUSE_SECONDS = 2.0  # doubles each time
TIMEOUT = (5.0, 15.0)  # seconds to connect, and to answer


def tell(address: str, news: dict[str, Any], *, pause: float = PAUSE_SECONDS) -> str:
    """POST ``news`` as JSON; return the outcome in a few words. Never raises: a failed notification must not fail the run.

    Repeats, a few times, what may succeed later: no answer, 429, 5xx. Redirects are not followed. The field ``text`` is what chat
    services show.
    """
    import urllib3
    from urllib3.exceptions import HTTPError

    try:
        url = urllib3.util.parse_url(address)
    except HTTPError:
        url = urllib3.util.Url()
    if url.scheme not in ("http", "https") or not url.host:
        return "failed: the webhook's address is no http(s):// address: correct the Secret"
    headers = {"Content-Type": "application/json", "User-Agent": "sida"}
    outcome = ""
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(*TIMEOUT), headers=headers) as pool:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(pause * 2 ** (attempt - 1))
            try:
                status = within(sum(TIMEOUT), partial(_post, pool, address, json.dumps(news)))
            except Exception as error:  # urllib3 raises more than its own errors on what is no HTTP
                outcome = f"no answer ({type(error).__name__})"  # its text would hold the address
                continue
            if status < 300:
                return f"told (status {status})"
            outcome = f"status {status}"
            if status != 429 and status < 500:
                return f"failed: {outcome}: check the Secret that holds the webhook's address"
    return f"failed: {outcome} after {ATTEMPTS} attempts"


def _post(pool: PoolManager, address: str, body: str) -> int:
    answer = pool.request("POST", address, body=body, redirect=False, preload_content=False)
    answer.close()  # whatever its body is, and however long
    return answer.status
