"""A server that sends bytes as they are told, however wrong they are as an answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

Answer = bytes | Iterable[bytes] | None  # None: none ever comes
SILENT_SECONDS = 2.0


class Server:
    """Gives every request the same answer, or what a function of method and body returns."""

    def __init__(self) -> None:
        self.answer: Answer | Callable[[str, bytes], Answer] = None
        self.asked: list[str] = []  # methods
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as lines, suppress(OSError):
            method = lines.readline().split()[0].decode()
            length = 0
            while line := lines.readline().strip():
                name, _, value = line.decode().partition(":")
                length = int(value) if name.lower() == "content-length" else length
            body = lines.read(length)
            self.asked.append(method)
            answer = self.answer(method, body) if callable(self.answer) else self.answer
            if answer is None:
                time.sleep(SILENT_SECONDS)
                return
            for block in (answer,) if isinstance(answer, bytes) else answer:
                client.sendall(block)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(1)
            client.recv(1)


@contextmanager
def serving() -> Iterator[Server]:
    """A server for as long as the block lasts."""
    server = Server()
    try:
        yield server
    finally:
        server.listener.close()


def http(status: int, body: bytes = b"", kind: str = "text/html", **headers: str) -> bytes:
    """An answer; ``headers`` come on top of the right ones, or in their place."""
    fields = {"Content-Type": kind, "Connection": "close", "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
