"""An S3 bucket as object store: AWS, SeaweedFS (Kubeflow's own), Ceph and others, through minio's client.

Credentials come from the environment, the AWS credentials file or a mounted web identity; the endpoint from
settings. TLS unless the endpoint says http://. While the server is away requests are made again (``sida.patience``).
"""

from __future__ import annotations

import io
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from sida.errors import AlreadyExists, NotFound, SidaError, StoreUnusable, Unavailable, UserError
from sida.patience import keep_trying
from sida.settings import settings
from sida.stores.base import RESERVED, Source, Stat, check_key, redact
from sida.stores.s3_client import connect
from sida.stores.s3_errors import explain, name_of

PART_BYTES = 16 << 20
MAX_PARTS = 9000
BLOCK_BYTES = 8 << 20
READERS = 4
FAILURES = (
    MinioException,
    urllib3.exceptions.HTTPError,
    ParseError,
    ValueError,
)  # of a request; ValueError: no credentials

Result = TypeVar("Result")


class S3Store:
    """Objects under ``prefix`` of ``bucket``. Safe for threads, and after a fork."""

    def __init__(self, bucket: str, prefix: str, endpoint: str | None, region: str) -> None:
        self.bucket, self.prefix, self.region = bucket, prefix.strip("/"), region
        endpoint = endpoint or f"s3.{region}.amazonaws.com"
        self.endpoint = endpoint if "://" in endpoint else f"https://{endpoint}"
        self._clients: tuple[int, Minio, Minio] | None = None
        self._conditional = False
        self._first = threading.Lock()

    @classmethod
    def from_address(cls, address: str) -> S3Store:
        """From ``s3://bucket/prefix`` and settings. Raises UserError when the address is malformed."""
        parts = urlsplit(address)
        if parts.username or parts.password or parts.query:
            raise UserError(
                f"{redact(address)} must hold no credentials or query: set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY in the environment"
            )
        if not parts.netloc:
            raise UserError(f"store address {address} names no bucket: write s3://bucket/prefix")
        prefix = parts.path.strip("/")
        if prefix:
            check_key(prefix)
        here = settings()
        return cls(parts.netloc, prefix, here.s3_endpoint, here.s3_region)

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def address_of(self, key: str) -> str:
        return f"{self.address}/{check_key(key)}"

    def __repr__(self) -> str:
        return f"S3Store({self.address}, endpoint={redact(self.endpoint)})"

    # -- reading

    def open(self, key: str) -> BinaryIO:
        size = self.stat(key).size
        if size <= BLOCK_BYTES:
            return io.BytesIO(self.read(key))
        raw: io.RawIOBase = _RangedFile(self, key, size)
        return io.BufferedReader(raw, BLOCK_BYTES)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        name = self._name(key)
        if length == 0:
            return b""

        def get() -> bytes:
            response = self._client.get_object(self.bucket, name, offset=offset, length=length or 0)
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

        try:
            return self._attempt(key, get)
        except SidaError as error:
            if isinstance(error.__cause__, S3Error) and error.__cause__.code == "InvalidRange":
                return b""  # from the end on there is nothing, as with a file
            raise

    def blocks(self, key: str, offset: int, size: int) -> Iterator[bytes]:
        """Bytes from ``offset`` to ``size`` in order, a few blocks being read at once ahead of the reader."""
        starts = iter(range(offset, size, BLOCK_BYTES))
        pending: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="s3 read") as readers:
            try:
                while True:
                    while len(pending) < READERS and (start := next(starts, None)) is not None:
                        length = min(BLOCK_BYTES, size - start)
                        pending.append(readers.submit(copy_context().run, self.read, key, start, length))
                    if not pending:
                        return
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def stat(self, key: str) -> Stat:
        name = self._name(key)
        found = self._attempt(key, lambda: self._client.stat_object(self.bucket, name))
        return Stat(found.size or 0, (found.etag or "").strip('"'))

    def exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except NotFound:
            return False
        return True

    def list(self, prefix: str = "") -> Sequence[str]:
        root = f"{self.prefix}/" if self.prefix else ""

        def names() -> list[str]:
            found = self._client.list_objects(self.bucket, prefix=root + prefix, recursive=True)
            return [str(entry.object_name).removeprefix(root) for entry in found]

        keys = self._attempt(prefix, names)
        return sorted(key for key in keys if not key.startswith(f"{RESERVED}/"))

    def local_path(self, key: str) -> Path | None:
        return None

    # -- writing

    def put(self, key: str, source: Source) -> Stat:
        if isinstance(source, Path):
            try:
                file = source.open("rb")
            except OSError as error:
                raise UserError(f"cannot read {source}: {error.strerror}") from error
            with file:
                return self.put(key, file)
        name = self._name(key)
        stream: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source
        begin = stream.tell()
        size = stream.seek(0, os.SEEK_END) - begin
        part = max(PART_BYTES, -(-size // MAX_PARTS))

        def upload() -> Stat:
            stream.seek(begin)
            done = self._client.put_object(self.bucket, name, stream, size, part_size=part)
            return Stat(size, (done.etag or "").strip('"'))

        return self._attempt(key, upload)

    def put_if_absent(self, key: str, content: bytes) -> Stat:
        with self._first:
            if not self._conditional:
                self._require_conditional_writes()
                self._conditional = True
        return self._create(key, content)

    def delete(self, key: str) -> None:
        name = self._name(key)
        try:
            self._attempt(key, lambda: self._client.remove_object(self.bucket, name))
        except NotFound:
            pass

    def _create(self, key: str, content: bytes) -> Stat:
        """One conditional PUT, read back. Each is sent once: after a lost answer "exists" may mean we won."""
        name, unsure = self._name(key), False

        def create() -> None:
            nonlocal unsure
            # The public put_object would turn the header into metadata, and overwrite.
            headers: dict[str, str | list[str] | tuple[str]] = {"If-None-Match": "*"}
            try:
                self._one_shot._execute("PUT", self.bucket, name, body=content, headers=headers)
            except FAILURES as error:
                if not isinstance(error, S3Error) or error.response.status != 412:
                    explained = explain(error, self, key)
                    unsure = unsure or isinstance(explained, Unavailable)
                    raise explained from error
                if not unsure or self.read(key) != content:
                    raise AlreadyExists(f"{self.address_of(key)} exists already") from error

        keep_trying(self._what, create)
        # Read it back, as some servers have answered several racing creators with success.
        if self.read(key) != content:
            raise AlreadyExists(f"{self.address_of(key)} exists already: another process wrote it at the same time")
        return self.stat(key)

    def _require_conditional_writes(self) -> None:
        """Prove once that this server refuses to overwrite: leases and attempts rest on it."""
        probe = f"{RESERVED}/probe-{secrets.token_hex(8)}"
        name = self._name(probe, reserved=True)
        headers: dict[str, str | list[str] | tuple[str]] = {"If-None-Match": "*"}
        self._attempt(probe, lambda: self._client.put_object(self.bucket, name, io.BytesIO(b"1"), 1))
        try:
            self._attempt(
                probe,
                lambda: self._client._execute("PUT", self.bucket, name, body=b"2", headers=dict(headers)),
            )
        except SidaError as error:
            if not isinstance(error.__cause__, S3Error) or error.__cause__.response.status != 412:
                raise
        else:
            raise StoreUnusable(
                f"{redact(self.endpoint)} ignores If-None-Match, so two writers could overwrite each other "
                f"in {self.address}: use a server that honours it, or set SIDA_STORE to a folder"
            )
        finally:
            self._attempt(probe, lambda: self._client.remove_object(self.bucket, name))

    # -- requests

    def _name(self, key: str, reserved: bool = False) -> str:
        key = key if reserved else check_key(key)
        return f"{self.prefix}/{key}" if self.prefix else key

    def _attempt(self, key: str, request: Callable[[], Result]) -> Result:
        """Do a repeatable request, again while the server is away. Raises this project's errors only."""

        def attempt() -> Result:
            try:
                return request()
            except FAILURES as error:
                raise explain(error, self, key) from error

        return keep_trying(self._what, attempt)

    @property
    def _what(self) -> str:
        return name_of(self.endpoint)

    @property
    def _client(self) -> Minio:
        return self._of_this_process()[1]

    @property
    def _one_shot(self) -> Minio:
        """A client whose requests are sent exactly once."""
        return self._of_this_process()[2]

    def _of_this_process(self) -> tuple[int, Minio, Minio]:
        # Connections must not be shared with a forked child.
        if self._clients is None or self._clients[0] != os.getpid():
            self._clients = (
                os.getpid(),
                connect(self.endpoint, self.region, again=True, connections=2 * READERS),
                connect(self.endpoint, self.region, again=False, connections=2 * READERS),
            )
        return self._clients


class _RangedFile(io.RawIOBase):
    """A large object as a seekable file; buffered by whoever opens it."""

    def __init__(self, store: S3Store, key: str, size: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readall(self) -> bytes:
        """The rest, in parallel; io's own would ask for it in pieces of 8 KiB."""
        rest = b"".join(self._store.blocks(self._key, self._at, self._size))
        self._at += len(rest)
        return rest

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        block = self._store.read(self._key, self._at, length)
        buffer[: len(block)] = block
        self._at += len(block)
        return len(block)
