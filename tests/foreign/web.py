"""A web server with every fault that a download meets: ``server.plan`` says what each next request gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HALF = 0.5


@dataclass
class Web:
    """What is served, how, and what was asked."""

    content: bytes = b""
    etag: str = '"one"'
    plan: list[Any] = field(default_factory=list)  # per request: "whole" (default when empty) or a fault
    redirect: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    address: str = ""
    port: int = 0


class Handler(BaseHTTPRequestHandler):
    web: Web
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        web = self.web
        web.asked.append(
            {
                "path": self.path,
                "host": self.headers["Host"],
                **{name.title(): value for name, value in self.headers.items()},
            }
        )
        fault = web.plan.pop(0) if web.plan else "whole"
        if isinstance(fault, int):
            self.send_response(fault)
            if 300 <= fault < 400:
                self.send_header("Location", web.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        wanted = self.headers.get("Range", "")
        if wanted and self.headers.get("If-Range") == web.etag and fault != "ignores ranges":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        content = bytearray(web.content)
        if fault == "flipped":
            content[-1] ^= 1
        body = bytes(content[start:])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", web.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "closed":
            body = b""
        elif fault in ("truncated", "hangs"):
            body = body[: int(len(body) * HALF)]
        try:
            if fault == "drips":
                for place in range(40):
                    self.wfile.write(body[place : place + 1])
                    time.sleep(0.05)
            else:
                self.wfile.write(body)
            if fault == "hangs":
                time.sleep(1.5)
        except OSError:
            pass  # the other side has left
        self.close_connection = fault != "whole"

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def serve(content: bytes, context: Any = None) -> Iterator[Web]:
    """A server on a port of its own; with an ssl ``context`` it speaks https."""
    web = Web(content)
    handler = type("Bound", (Handler,), {"web": web})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    web.port = server.server_address[1]
    web.address = f"http{'s' if context else ''}://127.0.0.1:{web.port}/net.pkl"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
