"""Read a record's bytes from the store, and verify that they are the ingested ones."""

import asyncio
from contextlib import aclosing
from hashlib import sha256
from io import BytesIO
from typing import Protocol

from headrace.schemas.digest import HASH_IN_THREAD_BYTES_MIN, sha256_hex
from headrace.schemas.headers import rfc3339
from headrace.store.blobs.blob_store import Blobs
from headrace.store.errors import BlobArchivedError, BlobCorruptError, BlobMissingError

RANGE_BYTES = 8 * 1024 * 1024  # a request has a limited time, so a large body takes several


class StoredBody(Protocol):
    """A body and its location in the store, as the catalog has it."""

    @property
    def digest(self) -> str:
        """The SHA-256, hexadecimal."""

    @property
    def size_bytes(self) -> int:
        """The size in bytes."""

    @property
    def store_key(self) -> str | None:
        """The key of the object; None if the catalog has no row."""

    @property
    def store_offset(self) -> int | None:
        """The offset in the object; None if the body is the whole object."""

    @property
    def archived_at_us(self) -> int | None:
        """When the body was archived; the key is then the archive's."""


async def read_placed(blobs: Blobs, placed: StoredBody) -> bytes:
    """Return the verified bytes of a body; may be repeated.

    Raises:
        BlobArchivedError: the body is in the archive. Also what `read_verified` raises.
    """
    if placed.store_key is None:
        raise BlobMissingError(placed.digest, where=blobs.where)
    if placed.archived_at_us is not None:
        raise BlobArchivedError(placed.digest, rfc3339(placed.archived_at_us))
    return await read_verified(
        blobs, placed.store_key, offset=placed.store_offset, size_bytes=placed.size_bytes, digest=placed.digest
    )


async def read_verified(blobs: Blobs, key: str, *, offset: int | None, size_bytes: int, digest: str) -> bytes:
    """Return the verified bytes of an object, or `size_bytes` of it from `offset`; may be repeated.

    Raises:
        BlobCorruptError: the bytes do not have the digest. BlobMissingError: the object does not exist.
        StoreUnavailableError, StoreRefusedError: as every use of the store.
    """
    data = await _read(blobs, key, offset, size_bytes)
    if len(data) != size_bytes:
        raise BlobCorruptError(key, f"{len(data)} bytes instead of {size_bytes}", where=blobs.where)
    actual = await _digest_of(data)
    if actual != digest:
        raise BlobCorruptError(key, f"its SHA-256 is {actual} instead of {digest}", where=blobs.where)
    return data


async def hash_of(blobs: Blobs, key: str) -> str | None:
    """Return the SHA-256 of an object of any size, or None if it does not exist."""
    digest = sha256()
    try:
        async with aclosing(blobs.stream(key, RANGE_BYTES)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(digest.update, chunk)
    except BlobMissingError:
        return None
    return digest.hexdigest()


async def _read(blobs: Blobs, key: str, offset: int | None, size_bytes: int) -> bytes:
    if size_bytes <= RANGE_BYTES:
        return await blobs.get(key, offset=offset, length=None if offset is None else size_bytes)
    stat = await blobs.stat(key)
    if stat is None:
        raise BlobMissingError(key, where=blobs.where)
    first = offset or 0
    end = min(first + size_bytes, stat.size_bytes)
    whole = BytesIO()  # `getvalue` does not copy the bytes
    for start in range(first, end, RANGE_BYTES):
        whole.write(await blobs.get(key, offset=start, length=min(RANGE_BYTES, end - start)))
    return whole.getvalue()


async def _digest_of(data: bytes) -> str:
    """Return the SHA-256; large bodies are hashed in a thread."""
    if len(data) < HASH_IN_THREAD_BYTES_MIN:
        return sha256_hex(data)
    return await asyncio.to_thread(sha256_hex, data)
