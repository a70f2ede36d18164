"""Claim checks: bodies too large for a message are staged in the store, and the message names them.

A producer can replace what it staged between our check and our use. So the service first copies it to where only the
service writes, hashes that copy, and promotes that copy.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID, uuid4

from headrace.schemas.digest import blob_key
from headrace.store.blobs.blob_store import Blobs
from headrace.store.errors import BlobMissingError, ClaimMismatchError, ClaimMissingError

STAGING_PREFIX = "staging/"
PROMOTING_PREFIX = "promoting/"
# All that the service keeps in its store: what others write must lie elsewhere.
OWN_PREFIXES = ("blobs/", "packs/", "derived/", STAGING_PREFIX, PROMOTING_PREFIX)
# What stays behind is a copy whose worker died: a copy is made and deleted within one batch. How long a staged body is
# kept whose message never came is a setting: a producer that was offline may publish a claim days after it staged it.
PROMOTING_DAYS_MAX = 1
VERIFY_CHUNK_BYTES = 4 * 1024 * 1024
MOVED_EVERY_S = 5.0  # while the store copies
HASH_IN_THREAD_BYTES_MIN = 64 * 1024  # below it, going to a thread costs more than the 40 µs of hashing


@dataclass(frozen=True, slots=True)
class Promoted:
    """A claim that held. `head` is the body's first bytes, `created` is False where the blob was there already."""

    head: bytes
    created: bool


async def stage(blobs: Blobs, key: str, chunks: AsyncIterator[bytes], *, media_type: str | None = None) -> None:
    """Upload a body of any size under its staging key; may be repeated. Publish its message only afterwards."""
    if not key.startswith(STAGING_PREFIX):
        raise ValueError(f"a staged object's key begins with {STAGING_PREFIX}")
    await blobs.put_stream(key, chunks, media_type=media_type)


async def verify_and_promote(
    blobs: Blobs,
    *,
    claim: str,
    sha256_hex: str,
    size_bytes: int,
    head_bytes: int,
    moved: Callable[[], None],
    new_id: Callable[[], UUID] = uuid4,
) -> Promoted:
    """Check a staged body against what its message says and put it at its content address; may be repeated.

    `moved` is called after each chunk and while the store copies: a large body takes minutes, and whoever watches must
    see that it moves. A copy that hangs is ended by the store's client (headrace/store/blobs/store_url.py). The
    staged object stays: `discard` it once the catalog's transaction is committed.

    Raises:
        ClaimMissing: the claim is not under staging/, or nothing is there and the blob is not known either.
        ClaimMismatch: its size or its digest is another.
        StoreUnavailable, StoreRefused: as every use of the store.
    """
    if not claim.startswith(STAGING_PREFIX):
        raise ClaimMissingError(claim, where=blobs.where)
    copy = f"{PROMOTING_PREFIX}{new_id()}"
    target = blob_key(sha256_hex)
    # Before it is copied: a store may refuse to copy what is far too large, and that would not be the message's fault.
    staged = await blobs.stat(claim)
    if staged is not None and staged.size_bytes != size_bytes:
        raise ClaimMismatchError(claim, f"{staged.size_bytes} bytes instead of {size_bytes}", where=blobs.where)
    try:
        await _copied(blobs, claim, copy, moved)
    except BlobMissingError:
        # Another delivery of the same claim may have been promoted, committed and discarded in the meantime.
        if await _is_there(blobs, target, size_bytes):
            return Promoted(await blobs.get(target, offset=0, length=min(head_bytes, size_bytes)), created=False)
        raise ClaimMissingError(claim, where=blobs.where) from None
    try:
        head = await _verified_head(blobs, copy, claim, (sha256_hex, size_bytes), head_bytes, moved)
        created = not await _is_there(blobs, target, size_bytes)
        if created:
            await _copied(blobs, copy, target, moved)
        return Promoted(head, created)
    finally:
        await blobs.delete(copy)


async def discard(blobs: Blobs, claim: str) -> None:
    """Delete a staged body after its record is committed; may be repeated."""
    # The claim comes from a message: it must never reach what the service itself has stored.
    if claim.startswith(STAGING_PREFIX):
        await blobs.delete(claim)


async def _copied(blobs: Blobs, source: str, target: str, moved: Callable[[], None]) -> None:
    copying = asyncio.ensure_future(blobs.copy(source, target))
    try:
        while not (await asyncio.wait({copying}, timeout=MOVED_EVERY_S))[0]:
            moved()
        copying.result()
    finally:
        copying.cancel()


async def _is_there(blobs: Blobs, key: str, size_bytes: int) -> bool:
    seen = await blobs.stat(key)
    return seen is not None and seen.size_bytes == size_bytes


async def _verified_head(
    blobs: Blobs, copy: str, claim: str, said: tuple[str, int], head_bytes: int, moved: Callable[[], None]
) -> bytes:
    digest_said, size_said = said
    seen = await blobs.stat(copy)
    if seen is None or seen.size_bytes != size_said:
        found = f"{seen.size_bytes if seen else 0} bytes instead of {size_said}"
        raise ClaimMismatchError(claim, found, where=blobs.where)
    digest = sha256()
    head = b""
    async with aclosing(blobs.stream(copy, VERIFY_CHUNK_BYTES)) as chunks:
        async for chunk in chunks:
            head = head or chunk[:head_bytes]
            if len(chunk) > HASH_IN_THREAD_BYTES_MIN:
                await asyncio.to_thread(digest.update, chunk)
            else:
                digest.update(chunk)
            moved()
    if digest.hexdigest() != digest_said:
        raise ClaimMismatchError(claim, f"its SHA-256 is {digest.hexdigest()}", where=blobs.where)
    return head
