"""A proxy in front of a real S3 server that spoils answers: ``proxy.plan`` says what each next request meets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "hang", "truncate", "close", "close after", "drip")


@dataclass
class Proxy:
    """The faults to come, and how many requests came."""

    endpoint: str = ""
    plan: list[str] = field(default_factory=list)
    only: str = ""  # the method that faults apply to; empty: all
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, method: str) -> str:
        with self.lock:
            self.requests += 1
            return self.plan.pop(0) if self.plan and self.only in ("", method) else ""


class Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    server_host: str
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        fault = self.proxy.next_fault(self.command)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "close":
            self.close_connection = True
            return
        if fault == "hang":
            time.sleep(2)
            self.close_connection = True
            return
        if fault == "500":
            self._answer(500, [("Content-Type", "application/xml")], b"<Error><Code>InternalError</Code></Error>")
            return
        upstream = HTTPConnection(self.server_host, timeout=30)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # the Host too: it is signed
            upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault == "close after":  # done, but nobody hears of it
            self.close_connection = True
            return
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
        self._answer(answer.status, headers, content, fault)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, fault: str = "") -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "truncate":
            content, self.close_connection = content[: len(content) // 2], True
        if fault == "drip":
            for place in range(20):
                self.wfile.write(content[place : place + 1])
                time.sleep(0.02)
            content = content[20:]
        self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_PATCH = forward

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            pass  # the client has left


@contextmanager
def spoiling(endpoint: str) -> Iterator[Proxy]:
    """A proxy in front of ``endpoint`` for as long as the block lasts."""
    proxy = Proxy()
    handler = type("Bound", (Handler,), {"proxy": proxy, "server_host": urlsplit(endpoint).netloc})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
