"""An S3 bucket as object store: AWS, SeaweedFS (Kubeflow's own), Ceph and others, through botocore.

Credentials come from the environment, the AWS credentials file or a mounted web identity; the endpoint from
settings. TLS unless the endpoint says http://. While the server is away requests are made again (``sida.patience``).
"""

from __future__ import annotations

import io
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from botocore.client import BaseClient
from botocore.exceptions import ClientError

from sida.addresses import redact
from sida.errors import AlreadyExists, Corrupt, NotFound, SidaError, StoreError, StoreUnusable, Unavailable, UserError
from sida.patience import keep_trying
from sida.settings import settings
from sida.stores.base import RECORD_BYTES, RESERVED, ObjectStore, Stat, absent, check_key, is_key, too_large
from sida.stores.s3_answers import (
    BLOCK_BYTES,
    MOST_NAMES,
    MOST_PAGES,
    body_of,
    check,
    etag_of,
    names_in,
    stat_of,
    token_in,
)
from sida.stores.s3_client import connect
from sida.stores.s3_errors import explain, name_of, status_of

PART_BYTES = 16 << 20
MAX_PARTS = 9000
READERS, WRITERS = 4, 3  # threads of one download, of one upload

Item = TypeVar("Item")
Result = TypeVar("Result")


class S3Store(ObjectStore):
    """Objects under a prefix of a bucket. Safe for threads, and after a fork."""

    def __init__(self, address: str) -> None:
        """Take ``s3://bucket/prefix``; settings say the endpoint. Raises UserError when the address is malformed."""
        parts = urlsplit(address)
        if parts.username or parts.password or parts.query:
            raise UserError(
                f"{redact(address)} must hold no credentials or query: set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY in the environment"
            )
        if not parts.netloc:
            raise UserError(f"store address {address} names no bucket: write s3://bucket/prefix")
        prefix = parts.path.strip("/")
        self._root = f"{check_key(prefix)}/" if prefix else ""
        self.bucket, self.region = parts.netloc, settings().s3_region
        endpoint = settings().s3_endpoint or f"s3.{self.region}.amazonaws.com"
        self.endpoint = endpoint if "://" in endpoint else f"https://{endpoint}"
        if f"://{self.bucket}.s3" in self.endpoint:
            raise UserError(
                f"SIDA_S3_ENDPOINT={redact(self.endpoint)}: leave the bucket out of SIDA_S3_ENDPOINT, as {address} names it: "
                f"write {redact(self.endpoint).replace(f'{self.bucket}.s3', 's3', 1)}"
            )
        self._connected: tuple[int, BaseClient] | None = None
        self._conditional = False  # not proven yet

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}/{self._root}".rstrip("/")

    # -- reading

    def read(self, key: str, offset: int = 0, length: int | None = None, *, most: int = RECORD_BYTES) -> bytes:
        name = self._name(key)
        if length == 0:
            return b""
        end = "" if length is None else offset + length - 1
        part = {"Range": f"bytes={offset}-{end}"} if offset or length is not None else {}
        try:
            answer = self._request("get_object", key, most if length is None else length, Key=name, **part)
        except SidaError as error:
            if isinstance(error.__cause__, ClientError) and status_of(error.__cause__) == 416:
                return b""  # from the end on there is nothing, as with a file
            raise
        content: bytes | None = answer["Body"]
        if content is not None:
            return content
        if length is None:
            raise too_large(self, key, most)
        raise StoreError(f"{redact(self.endpoint)} sent more of {self.address_of(key)} than {length} bytes")

    def blocks(self, key: str, offset: int, size: int) -> Iterator[bytes]:
        """Yield the bytes in order, a few blocks being read at once ahead of the reader. Raises Corrupt where there are fewer."""

        def block(start: int) -> bytes:
            length = min(BLOCK_BYTES, size - start)
            content = self.read(key, start, length)
            if len(content) < length:
                raise Corrupt(
                    f"{self.address_of(key)} is damaged: it ends after {start + len(content):,} bytes, expected {size:,}; "
                    f"put it there again, or delete it and rerun its step"
                )
            return content

        return _in_parallel(block, range(offset, size, BLOCK_BYTES), READERS)

    def stat(self, key: str) -> Stat:
        return stat_of(self._request("head_object", key, Key=self._name(key)))

    def age(self, key: str) -> float:
        answer = self._request("head_object", key, Key=self._name(key))
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        try:  # both are the server's: this machine's clock says nothing
            now, written = (parsedate_to_datetime(headers[name]) for name in ("date", "last-modified"))
            return (now - written).total_seconds()
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreError(f"{redact(self.endpoint)} does not say when {self.address_of(key)} was written") from error

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the keys. What has no key of a store's is passed over: names like ``runs/`` are some tools' signs of a folder."""
        names: list[str] = []
        seen: set[str] = set()
        after: dict[str, str] = {}
        while True:
            page = self._request("list_objects_v2", prefix, RECORD_BYTES, Prefix=self._root + prefix, **after)
            names += names_in(page)
            if (token := token_in(page)) is None:
                break
            if token in seen or not token or len(seen) >= MOST_PAGES or len(names) > MOST_NAMES:
                raise StoreError(f"{redact(self.endpoint)} lists {self.address}/{prefix} without end: look at it")
            seen.add(token)
            after = {"ContinuationToken": token}
        return sorted(key for key in (name.removeprefix(self._root) for name in names) if is_key(key))

    # -- writing

    def put(self, key: str, source: bytes | BinaryIO) -> Stat:
        name = self._name(key)
        stream: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source
        begin = stream.tell()
        size = stream.seek(0, os.SEEK_END) - begin
        stream.seek(begin)
        if size <= PART_BYTES:
            content = _read(stream, size)
            return Stat(len(content), etag_of(self._request("put_object", key, Key=name, Body=content)))
        try:
            return self._upload(key, stream, size)
        except NotFound:  # the upload is no more: completed by a try whose answer was lost, or removed
            stream.seek(begin)
            return self._upload(key, stream, size)

    def _upload(self, key: str, stream: BinaryIO, size: int) -> Stat:
        """Send a large object in parts, a few at once."""
        name, part_bytes = self._name(key), max(PART_BYTES, -(-size // MAX_PARTS))
        upload = {"Key": name, "UploadId": self._request("create_multipart_upload", key, Key=name)["UploadId"]}

        def send(part: tuple[int, bytes]) -> dict[str, Any]:
            number, content = part
            answer = self._request("upload_part", key, PartNumber=number, Body=content, **upload)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        contents = (_read(stream, part_bytes) for _ in range(0, size, part_bytes))
        try:
            parts = {"Parts": list(_in_parallel(send, enumerate(contents, 1), WRITERS))}
            answer = self._request("complete_multipart_upload", key, MultipartUpload=parts, **upload)
        except BaseException:
            with suppress(SidaError):
                self._send("abort_multipart_upload", key, **upload)
            raise
        return Stat(size, etag_of(answer))

    def put_if_absent(self, key: str, content: bytes) -> Stat:
        """Make one conditional PUT, read back. After a lost answer "exists" may mean that we won."""
        if not self._conditional:  # threads that come here together prove it once each
            self._require_conditional_writes()
            self._conditional = True
        name, unsure = self._name(key), False

        def create() -> None:
            nonlocal unsure
            try:
                self._send("put_object", key, Key=name, Body=content, IfNoneMatch="*")
            except Unavailable:
                unsure = True
                raise
            except AlreadyExists:
                if not unsure or not self._holds(key, content):
                    raise

        try:
            keep_trying(name_of(self.endpoint), create)
        except Unavailable:
            if not self._holds(key, content):  # something before the server may fail in its place
                raise
        # Read it back, as some servers have answered several racing creators with success.
        answer = self._request("get_object", key, len(content), Key=name)
        if answer["Body"] != content:
            raise AlreadyExists(f"{self.address_of(key)} exists already: another process wrote it at the same time")
        return Stat(len(content), etag_of(answer))

    def _holds(self, key: str, content: bytes) -> bool:
        """Return whether an object is there with these bytes, as far as one request says."""
        try:
            return bool(self._send("get_object", key, len(content), Key=self._name(key))["Body"] == content)
        except SidaError:
            return False

    def delete(self, key: str) -> None:
        with suppress(NotFound):
            self._request("delete_object", key, Key=self._name(key))

    def _require_conditional_writes(self) -> None:
        """Prove once that this server refuses to overwrite: leases and attempts rest on it."""
        probe = f"{RESERVED}/probe-{secrets.token_hex(8)}"
        name = self._root + probe
        self._request("put_object", probe, Key=name, Body=b"1")
        try:
            self._request("put_object", probe, Key=name, Body=b"2", IfNoneMatch="*")
        except AlreadyExists:
            pass
        else:
            raise StoreUnusable(
                f"{redact(self.endpoint)} ignores If-None-Match, so two writers could overwrite each other "
                f"in {self.address}: use a server that honors it, or set SIDA_STORE to a folder"
            )
        finally:
            self._request("delete_object", probe, Key=name)

    # -- requests

    def _name(self, key: str) -> str:
        return self._root + check_key(key)

    def _request(self, operation: str, key: str, most: int = RECORD_BYTES, **arguments: Any) -> dict[str, Any]:
        """Make a repeatable request, again while the server is away. Raises this project's errors only."""
        try:
            return keep_trying(name_of(self.endpoint), lambda: self._send(operation, key, most, **arguments))
        except StoreUnusable as error:
            listed = self._is_listed(error, arguments["Key"]) if operation in ("get_object", "head_object") else None
            if listed is None:
                raise
            if not listed:
                raise absent(self.address_of(key)) from error
            return self._send(operation, key, most, **arguments)  # made in between; or it is refused again

    def _is_listed(self, refusal: StoreUnusable, name: str) -> bool | None:
        """Return whether an object that is refused is there at all; None where that cannot be seen.

        AWS says 403 in place of 404 to whoever may list no more than a prefix.
        """
        if not isinstance(refusal.__cause__, ClientError) or status_of(refusal.__cause__) != 403:
            return None
        try:
            return name in names_in(self._send("list_objects_v2", "", Prefix=name, MaxKeys=1))
        except SidaError:
            return None

    def _send(self, operation: str, key: str, most: int = RECORD_BYTES, **arguments: Any) -> dict[str, Any]:
        """Make one of botocore's requests, once, and read the answer's body: None for more than ``most`` bytes.

        ``key`` is for messages.
        """
        try:
            arguments["Bucket"] = self.bucket
            answer: dict[str, Any] = getattr(self._client, operation)(**arguments)
            if operation == "get_object":
                answer["Body"] = body_of(answer, most)
            check(operation, arguments, answer)
        except SidaError:
            raise
        except Exception as error:  # of botocore, urllib3 and the parsers below them, which meet whatever was sent
            raise explain(error, self, key) from error
        return answer

    @property
    def _client(self) -> BaseClient:
        # Connections must not be shared with a forked child.
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = os.getpid(), connect(self.endpoint, self.region, connections=2 * READERS)
        return self._connected[1]


def _read(stream: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes, or to the end, of a stream that may give fewer at a time."""
    content = stream.read(size)
    while len(content) < size and (more := stream.read(size - len(content))):
        content += more
    return content


def _in_parallel(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield the results in order, a few items being worked on at once ahead of the reader."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="s3") as pool:
        try:
            for item in items:
                pending.append(pool.submit(copy_context().run, work, item))
                if len(pending) == threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
