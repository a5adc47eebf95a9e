"""Object stores: a folder on this machine (default) and S3, behind one small interface."""

from __future__ import annotations

from pathlib import Path

from sida.addresses import FILE, checked, redact
from sida.errors import StoreUnusable, UserError
from sida.stores.base import ObjectRef, ObjectStore
from sida.stores.folder import FolderStore
from sida.stores.objects import fetch_object, put_object

__all__ = [
    "ObjectRef",
    "ObjectStore",
    "fetch_object",
    "open_folder",
    "open_own_store",
    "open_store",
    "put_object",
    "read_address",
]


def open_store(address: str) -> ObjectStore:
    """Open the store at ``file:///folder``, ``s3://bucket/prefix`` or a plain path of a folder.

    Opening touches neither disk nor network; the first use does. Raises UserError for any other form.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     store = open_store(folder)
    ...     ref = put_object(store, b"weights", "generator.bin")
    ...     store.read(ref.key)
    b'weights'
    """
    address = checked(address, "store address", ("file", "s3"))
    if address.startswith("s3://"):
        try:
            from sida.stores.s3 import S3Store
        except ModuleNotFoundError as error:
            if error.name != "botocore":
                raise
            raise StoreUnusable(
                f"{redact(address)} needs the package botocore, which is not installed: pip install botocore, "
                f"or set SIDA_STORE to a folder (file:///...)"
            ) from error
        return S3Store(address)
    if address.startswith(FILE):
        # Taken literally, not as percent-encoded: folders may hold '%', '#' and '?'.
        path = address.removeprefix(FILE).removeprefix("localhost")
        if not path.startswith("/"):
            raise UserError(f"store address {address} has no absolute path: write file:///folder, three slashes")
        return FolderStore(Path(path))
    return FolderStore(Path(address).absolute())


def open_own_store(address: str) -> ObjectStore:
    """Open a store that is sida's, or may become one. Raises StoreUnusable for a folder of something else."""
    store = open_store(address)
    if isinstance(store, FolderStore):
        store.refuse_foreign()
    return store


def read_address(address: str) -> bytes:
    """Return the bytes of the record at a full address. Raises NotFound, StoreError, UserError."""
    store, name = open_folder(address)
    return store.read(name)


def open_folder(address: str) -> tuple[ObjectStore, str]:
    """Return the folder of the object at a full address as a store, and the object's name there. Raises UserError."""
    folder, slash, name = checked(address, "address", ("file", "s3")).rpartition("/")
    if not slash or not name:
        raise UserError(f"{redact(address)!r} is not the address of an object: write file:///folder/file or s3://...")
    return open_store(folder or "/"), name
