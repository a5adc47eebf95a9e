"""A way to a real server that can be shut, as by a restart, or lead to a proxy that has no server behind it."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest

from sida import patience

PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>nginx</body></html>\r\n"
WELL = {"200 page": ("200 OK", "text/html", PAGE.format("OK"))}
ANSWERS = {
    "502 page": ("502 Bad Gateway", "text/html", PAGE.format("502 Bad Gateway")),
    "503 text": ("503 Service Unavailable", "text/plain; charset=utf-8", "no healthy upstream"),
    "503 XML": ("503 Service Unavailable", "application/xml", "<Error><Code>SlowDown</Code></Error>"),
    "500 XML that is none": ("500 Internal Server Error", "application/xml", "upstream failed"),
    "504 nothing": ("504 Gateway Timeout", "text/html", ""),
    "429 text": ("429 Too Many Requests", "text/plain", "slow down"),
}


class Way:
    """Forwards connections to a server while it is open. Shut, its port refuses them; with an answer, each request gets that."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._server = (str(parts.hostname), int(parts.port or 80))
        self._listener: socket.socket | None = None
        self._port = 0
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self.opens_when_told = False  # for whoever hears what is said
        self.open()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self, answer: str = "") -> None:
        """Let connections through; with ``answer`` (one of ANSWERS or WELL, or "nothing": none ever comes) only to that."""
        self.shut()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(64)
        self._listener, self._port = listener, listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener, answer), daemon=True).start()

    def shut(self) -> None:
        """Cut what is open and refuse the rest."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections, self._connections = self._connections, set()
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def shut_for(self, seconds: float, answer: str = "") -> None:
        """Shut, or lead to ``answer``, now, and open again in a while."""
        if answer:
            self.open(answer)
        else:
            self.shut()
        threading.Timer(seconds, self.open).start()

    def shut_until_told(self, answer: str = "") -> None:
        """As ``shut_for``, until somebody has said that the server is away."""
        self.opens_when_told = True
        if answer:
            self.open(answer)
        else:
            self.shut()

    def _accept(self, listener: socket.socket, answer: str) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(client)
            target, given = (self._say, (client, answer)) if answer else (self._forward, (client,))
            threading.Thread(target=target, args=given, daemon=True).start()  # type: ignore[arg-type]

    def _forward(self, client: socket.socket) -> None:
        with suppress(OSError, ValueError), client, socket.create_connection(self._server, 5) as server:
            with self._lock:
                self._connections.add(server)
            while True:
                ready, _, _ = select.select([client, server], [], [], 60)
                for side, other in ((client, server), (server, client)):
                    if side in ready:
                        if not (block := side.recv(1 << 16)):
                            return
                        other.sendall(block)

    def _say(self, client: socket.socket, answer: str) -> None:
        with suppress(OSError, ValueError), client:
            client.recv(1 << 20)
            if answer == "nothing":
                time.sleep(60)
                return
            status, kind, text = (ANSWERS | WELL)[answer]
            head = (
                f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
            )
            client.sendall((head + text).encode())
            while client.recv(1 << 20):  # an upload's rest: a reset would hide the answer
                pass


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of tenths of seconds in this process, which forgets what it was told of outages before."""
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(patience, "_outages", {})
    monkeypatch.setattr(patience, "_last_end", float("-inf"))
    monkeypatch.setattr(patience, "told", patience.Told())


@contextmanager
def way_to(endpoint: str) -> Iterator[Way]:
    """An open way for as long as the block lasts."""
    way = Way(endpoint)
    try:
        yield way
    finally:
        way.shut()
