"""What an S3 server answers, checked where it comes in: each field that is read is there and of its type; sizes are bounded."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from sida.shapes import Needed, Shape, misshapen
from sida.stores.base import Stat
from sida.stores.s3_errors import Strange

ANSWER_BYTES = 16 << 20  # of XML: a page of a list, 1,000 keys of 1,024 bytes each, has less than a tenth
BLOCK_BYTES = 8 << 20  # of a body, at once
MOST_PAGES, MOST_NAMES = 10_000, 10_000_000  # of a list
ALIAS = "-s3alias"  # ends another name of a bucket, its access point's, on AWS
_WRITTEN = {"ETag": Needed(str)}
# By every S3 server; a page or an empty answer of something before it does not say as much
FIELDS: dict[str, Shape] = {
    "get_object": {"ETag": Needed(str), "ContentLength": int},
    "head_object": {"ETag": Needed(str), "ContentLength": Needed(int)},
    "put_object": _WRITTEN,
    "upload_part": _WRITTEN,
    "complete_multipart_upload": _WRITTEN,
    "create_multipart_upload": {"UploadId": Needed(str)},
    "list_objects_v2": {
        "Name": Needed(str),
        "Prefix": str,
        "Contents": [{"Key": Needed(str)}],
        "KeyCount": int,
        "IsTruncated": Needed(bool),
        "NextContinuationToken": str,
    },
}


def check(operation: str, asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """Raise Strange unless the fields of botocore's answer that are read are there, of their types, and what was asked for."""
    if fault := misshapen(answer, FIELDS.get(operation, {})):
        raise Strange(fault)
    if operation == "list_objects_v2":
        _check_page(asked["Prefix"], answer)
        if answer["Name"] != asked["Bucket"] and not asked["Bucket"].endswith(ALIAS):
            raise Strange("it lists another bucket")


def _check_page(prefix: str, page: Mapping[str, Any]) -> None:
    """Raise Strange for a page of a list that is not what was asked for, or contradicts itself: less would seem to be there."""
    names = names_in(page)
    if page.get("Prefix", prefix) != prefix or not all(name.startswith(prefix) for name in names):
        raise Strange("it lists what was not asked for")
    if page.get("KeyCount", len(names)) != len(names):
        raise Strange(f"it counts {page['KeyCount']} keys and lists {len(names)}")
    if page.get("NextContinuationToken") and not page["IsTruncated"]:
        raise Strange("it ends, and names a next page")


def body_of(answer: Mapping[str, Any], most: int) -> bytes | None:
    """Read an answer's body to its end; return None, and no more of it is read, where it has more than ``most`` bytes."""
    content = io.BytesIO()
    with closing(answer["Body"]) as body:
        if answer.get("ContentLength", 0) <= most:
            while block := body.read(BLOCK_BYTES):  # the last, empty one compares what came with what was announced
                content.write(block)
                if content.tell() > most:
                    return None
            return content.getvalue()
    return None


def etag_of(answer: Mapping[str, Any]) -> str:
    """Return what another content has another of."""
    return str(answer["ETag"]).strip('"')


def stat_of(answer: Mapping[str, Any]) -> Stat:
    """Return what a HEAD says."""
    return Stat(answer["ContentLength"], etag_of(answer), str(answer.get("LastModified", "")))


def names_in(page: Mapping[str, Any]) -> list[str]:
    """Return the names of objects on a list's page."""
    return [entry["Key"] for entry in page.get("Contents") or ()]


def token_in(page: Mapping[str, Any]) -> str | None:
    """Return the token of a list's next page; None on the last."""
    return str(page.get("NextContinuationToken", "")) if page["IsTruncated"] else None


class Bounded:
    """Body of an open response of urllib3's, as botocore reads one; Strange is raised where a whole one is too large."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self, *given: Any, **named: Any) -> Iterator[bytes]:
        """Yield all of it; botocore reads every answer so but an object's bytes."""
        size = 0
        for block in self._raw.stream(*given, **named):
            size += len(block)
            if size > ANSWER_BYTES:
                self._raw.close()
                raise Strange(f"more than {ANSWER_BYTES:,} bytes")
            yield block
