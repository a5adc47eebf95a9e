"""Downloads over https that survive what networks do: they resume, are bounded in time, and keep credentials to one host."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import certifi
import urllib3
from urllib3.util import Url, parse_url

from sida.addresses import redact, shown
from sida.errors import StoreError, Unavailable, UserError
from sida.masking import hide
from sida.patience import Wait, answered, hush_retries
from sida.printing import one_line
from sida.settings import environment

CONNECT_SECONDS, READ_SECONDS = 15.0, 60.0
ANSWER_SECONDS = 120.0  # for a server to say what it sends, however slowly
STALL_SECONDS, STALL_BYTES = 60.0, 60 << 10  # fewer bytes than this in that time count as no answer
ATTEMPTS = 5  # in a row, none of which brought a byte, whatever the patience
MOST_ATTEMPTS = 1000
MOST_SECONDS = 72 * 3600.0  # of one download, all attempts together
REDIRECTS = 5
BLOCK_BYTES = 1 << 20

Advance = Callable[[int, int], None]  # bytes so far, bytes in all (0: unknown)


class _Broken(Exception):
    """This attempt failed in a way that another one may not."""


class TooLarge(Exception):
    """More than such a file may have."""

    def __init__(self, size: int | None, most: int) -> None:
        found = "does not end within" if size is None else f"has {size:,} bytes, more than"
        super().__init__(f"{found} {most / 2**30:g} GiB")


def download(address: str, part: Path, label: str, advance: Advance, most: int) -> None:
    """Bring ``address`` into the file ``part``, going on from what it holds if that is of the same version.

    Waits for a server that is away. Raises UserError for what the user can mend (address, TLS), Unavailable when it stays away, and
    TooLarge for more than ``most`` bytes. Messages hold neither userinfo nor query.
    """
    printable, wait, until = redact(address)[:150], Wait(ATTEMPTS), time.monotonic() + MOST_SECONDS
    server = f"the server {urlsplit(address).hostname}"
    for _ in range(MOST_ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(address, part, label, advance, most, until)
            answered(server)
            return
        except (_Broken, urllib3.exceptions.HTTPError, ssl.SSLError) as error:
            _raise_lasting(error, label, printable)
            if part.exists() and part.stat().st_size > before:
                answered(server)
                wait = Wait(ATTEMPTS)
            if time.monotonic() >= until:
                break
            wait.out(_away(error, label, printable, server))
    raise StoreError(
        f"{label} {printable}: broke off {MOST_ATTEMPTS} times, or took {MOST_SECONDS / 3600:g} hours: "
        f"run again, it goes on from where it is"
    )


def _attempt(address: str, part: Path, label: str, advance: Advance, most: int, until: float) -> None:
    """Make one request; append to ``part`` when the server goes on from there, else start it anew."""
    note = note_beside(part)
    offset, validator = _resumable(part, note)
    response = _open(address, offset, validator, label)
    try:
        if response.status not in (200, 206, 416):
            raise _answer(response.status, label, redact(address)[:150])
        length = _length(response)
        if response.status == 416 or (response.status == 206 and not _goes_on(response, offset, length)):
            part.unlink(missing_ok=True)
            raise _Broken("it does not go on from where the download broke off")
        if response.status == 200:
            offset = 0
        total = offset + length if length else 0
        if total > most:
            raise TooLarge(total, most)
        note.write_text(json.dumps({"validator": _validator(response), "total": total}))
        with part.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            _copy(response, file, offset, total, advance, most, until)
        if total and part.stat().st_size != total:
            raise _Broken(f"it ends after {part.stat().st_size} of {total} bytes")
    finally:
        response.close()
        response.release_conn()


def _copy(response: Any, file: Any, done: int, total: int, advance: Advance, most: int, until: float) -> None:
    window, start = time.monotonic(), done
    while block := response.read1(BLOCK_BYTES, decode_content=False):  # the file itself, however its server calls it
        done += len(block)
        if done > most:
            raise TooLarge(None, most)
        advance(done, total)
        file.write(block)
        if (now := time.monotonic()) > until:
            raise _Broken("it takes too long")
        if now - window > STALL_SECONDS:
            if done - start < STALL_BYTES:
                raise _Broken(f"it sent {done - start} bytes in {now - window:.0f} s")
            window, start = now, done


# -- requests


def _open(address: str, offset: int, validator: str, label: str) -> Any:
    """Return the response, redirects followed: credentials go to the address's own origin and to no other."""
    url = named = parse_url(address)
    headers = {"Accept-Encoding": "identity", "User-Agent": "sida"}
    if offset and validator:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    for _ in range(REDIRECTS + 1):
        same_origin = (url.scheme, url.host, url.port) == (named.scheme, named.host, named.port)
        own = _authorization(named) if same_origin else {}
        hide(own)
        url = url._replace(auth=None, fragment=None)
        response = _pool(url).request(
            "GET", url.url, headers=headers | own, redirect=False, retries=False, preload_content=False
        )
        location = response.headers.get("Location")
        if response.status not in (301, 302, 303, 307, 308) or not location:
            return response
        response.close()
        try:
            url = parse_url(urljoin(url.url, location))
        except ValueError as error:  # LocationParseError is one too
            raise UserError(
                f"{label} {redact(address)[:150]}: redirects to what is not an address: give another one"
            ) from error
        if url.scheme not in ("https", named.scheme):
            raise UserError(
                f"{label} {redact(address)[:150]}: redirects to {redact(url.url)[:80]}, which is not https: give another one"
            )
    raise UserError(f"{label} {redact(address)}: redirects more than {REDIRECTS} times: give the file's own address")


class _Answering:
    """Mixin of a connection whose server has ``ANSWER_SECONDS`` for status and headers.

    A timeout of the socket begins anew with each byte.
    """

    sock: socket.socket | None

    def getresponse(self) -> Any:
        late = threading.Event()
        timer = threading.Timer(ANSWER_SECONDS, self._end, (late,))
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()
            if late.is_set():  # what came until then may look like an answer
                raise _Broken(f"it does not answer within {ANSWER_SECONDS:g} s")

    def _end(self, late: threading.Event) -> None:
        late.set()
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


class _Connection(_Answering, urllib3.connection.HTTPConnection):
    pass


class _TLSConnection(_Answering, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def _pool(url: Url) -> urllib3.PoolManager:
    """Return connections with verified TLS, through the proxy that the environment names."""
    manager = _manager(url)
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return manager


def _manager(url: Url) -> urllib3.PoolManager:
    hush_retries()
    options: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        "cert_reqs": "CERT_REQUIRED",
        "ca_certs": environment().get("SSL_CERT_FILE") or certifi.where(),
    }
    proxies = getproxies_environment()
    proxy = proxies.get(url.scheme or "")
    if proxy and not proxy_bypass_environment((url.host or "").strip("[]"), proxies):
        try:
            return urllib3.ProxyManager(proxy, **options)
        except (ValueError, urllib3.exceptions.URLSchemeUnknown) as error:
            raise UserError(
                f"{url.scheme}_proxy {shown(proxy)!r} is no proxy that is known: write http://HOST:PORT, or unset it"
            ) from error
    return urllib3.PoolManager(**options)


def _authorization(url: Url) -> dict[str, str]:
    if url.auth is None:
        return {}
    pair = url.auth if ":" in url.auth else f"{url.auth}:"
    return dict(urllib3.make_headers(basic_auth=unquote(pair)))


# -- resuming


def note_beside(part: Path) -> Path:
    """Return the file that says which version the file ``part`` is a beginning of."""
    return part.with_name(f"{part.name}.json")


def _resumable(part: Path, note: Path) -> tuple[int, str]:
    """Return the number of bytes downloaded and their version; (0, "") to begin anew."""
    try:
        state = json.loads(note.read_text())
        size = part.stat().st_size
        if isinstance(state["validator"], str) and state["validator"] and (not state["total"] or size < state["total"]):
            return size, state["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, ""


def _validator(response: Any) -> str:
    """Return a strong ETag, else the date; without either a download cannot be resumed."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _length(response: Any) -> int:
    """Return how many bytes are announced; 0 if that is not known. Raises _Broken for what is no number."""
    text = response.headers.get("Content-Length")
    if text is None:
        return 0
    if not re.fullmatch("[0-9]{1,18}", text):
        raise _Broken(f"its Content-Length is {ascii(text)[:30]}")
    return int(text)


def _goes_on(response: Any, offset: int, length: int) -> bool:
    """Return whether a partial answer is the rest from ``offset`` on, to the end that it names itself."""
    match = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "")
    )
    if match is None or int(match[1]) != offset:
        return False
    size = int(match[2]) + 1 - offset
    return length in (0, size) and match[3] in ("*", str(int(match[2]) + 1))


# -- errors


def _answer(status: int, label: str, printable: str) -> Exception:
    if status in (408, 425, 429) or status >= 500:
        return _Broken(f"the server answers {status}")
    if status in (401, 403, 407):
        return UserError(
            f"{label} {printable}: the server answers {status}: it needs credentials, or its license must be accepted first"
        )
    return UserError(f"{label} {printable}: the server answers {status}: correct the address in the recipe")


def _raise_lasting(error: Exception, label: str, printable: str) -> None:
    """Raise if no further attempt would help."""
    if isinstance(error, urllib3.exceptions.SSLError | ssl.SSLError):
        raise UserError(
            f"{label} {printable}: no TLS connection ({_line(error)}): set SSL_CERT_FILE to its authority"
        ) from error
    if isinstance(error, urllib3.exceptions.LocationParseError | urllib3.exceptions.URLSchemeUnknown):
        raise UserError(f"{label} {printable}: is not an address: correct it in the recipe") from error


def _away(error: Exception, label: str, printable: str, server: str) -> Unavailable:
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        # Short, so that its end is not cut: the whole address was said when the fetching began.
        return Unavailable(
            f"{label} {printable.rpartition('/')[2]}: cannot reach {server}: check its name and the network, or set SIDA_MIRROR "
            f"(docs/benchmarks.md)",
            server,
            "no way to it",
        )
    reason = _line(error)
    return Unavailable(
        f"{label} {printable}: broke off again and again ({reason}): run again, it goes on from there", server, reason
    )


def _line(error: object) -> str:
    return one_line(" ".join(redact(word) if "://" in word else word for word in str(error).split()), 100)
