"""One JSON message to an address that somebody watches. The address is a secret: it is in no message, log or error of ours."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlsplit

ATTEMPTS = 4
PAUSE_SECONDS = 2.0  # doubles each time
TIMEOUT = (5.0, 15.0)  # seconds to connect, and to answer


def tell(address: str, news: dict[str, Any], *, pause: float = PAUSE_SECONDS) -> str:
    """POST ``news`` as JSON; in a few words what came of it. Never raises: who was not told must not stop a run.

    Repeats, a few times, what may succeed later: no answer, 429, 5xx. Redirects are not followed. The field ``text`` is what chat
    services show.
    """
    import urllib3
    from urllib3.exceptions import HTTPError

    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        return "failed: the webhook's address is no http(s):// address: correct the Secret"
    body = json.dumps(news).encode()
    said = ""
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(*TIMEOUT)) as pool:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(pause * 2 ** (attempt - 1))
            try:
                headers = {"Content-Type": "application/json", "User-Agent": "sida"}
                answer = pool.request("POST", address, body=body, headers=headers, redirect=False)
            except (HTTPError, OSError, ValueError) as error:
                said = f"no answer ({type(error).__name__})"  # its text would hold the address
                continue
            if answer.status < 300:
                return f"told (status {answer.status})"
            said = f"status {answer.status}"
            if answer.status != 429 and answer.status < 500:
                return f"failed: {said}: check the Secret that holds the webhook's address"
    return f"failed: {said} after {ATTEMPTS} attempts"
