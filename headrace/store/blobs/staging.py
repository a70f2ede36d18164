"""Claim checks: bodies too large for a message are staged in the store, and the message names them.

A producer can replace what it staged between our check and our use. So the service first copies it to where only the
service writes, hashes that copy, and promotes that copy.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from uuid import uuid4

from headrace.schemas.digest import HASH_IN_THREAD_BYTES_MIN, blob_key
from headrace.schemas.media_probe import MediaProbe
from headrace.store.blobs.blob_store import Blobs
from headrace.store.errors import BlobMissingError, ClaimMismatchError, ClaimMissingError

STAGING_PREFIX = "staging/"
PROMOTING_PREFIX = "promoting/"
QUARANTINE_PREFIX = "quarantine/"
# All that the service keeps in its store: what others write must lie elsewhere.
OWN_PREFIXES = (
    *("blobs/", "packs/", "derived/", "erased/", "installation/"),
    *(STAGING_PREFIX, PROMOTING_PREFIX, QUARANTINE_PREFIX),
)
# What stays behind is a copy whose worker died: a copy is made and deleted within one batch. How long a staged body is
# kept whose message never came is a setting: a producer that was offline may publish a claim days after it staged it.
PROMOTING_DAYS_MAX = 1
VERIFY_CHUNK_BYTES = 4 * 1024 * 1024
MOVED_EVERY_S = 5.0  # while the store copies


@dataclass(frozen=True, slots=True)
class StagedBody:
    """A staged object's key, and the digest and size that its message declares."""

    claim: str
    sha256_hex: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Promoted:
    """A verified body. `probe` read all of it; `created` is False where the blob existed already."""

    probe: MediaProbe
    created: bool


async def stage(blobs: Blobs, key: str, chunks: AsyncIterator[bytes], *, media_type: str | None = None) -> None:
    """Upload a body of any size under its staging key; may be repeated. Publish its message only afterwards."""
    if not key.startswith(STAGING_PREFIX):
        raise ValueError(f"a staged object's key begins with {STAGING_PREFIX}")
    await blobs.put_stream(key, chunks, media_type=media_type)


async def verify_and_promote(
    blobs: Blobs,
    staged: StagedBody,
    *,
    moved: Callable[[], None],
) -> Promoted:
    """Verify a staged body and put it at its content address; may be repeated.

    `moved` is called after each chunk and while the store copies: a large body takes minutes, and the watchdog must
    see progress. A copy that hangs is ended by the store's client (headrace/store/blobs/store_url.py). The staged
    object stays: `discard` it once the catalog's transaction is committed.

    Raises:
        ClaimMissingError: the claim is not under staging/, or no object is there.
        ClaimMismatchError: its size or its digest is another.
        StoreUnavailableError, StoreRefusedError: as every use of the store.
    """
    claim, size_bytes = staged.claim, staged.size_bytes
    if not claim.startswith(STAGING_PREFIX):
        raise ClaimMissingError(claim, where=blobs.where)
    copy = f"{PROMOTING_PREFIX}{uuid4()}"
    target = blob_key(staged.sha256_hex)
    # Before it is copied: a store may refuse to copy what is far too large, and that would not be the message's fault.
    stat = await blobs.stat(claim)
    if stat is not None and stat.size_bytes != size_bytes:
        raise ClaimMismatchError(claim, f"{stat.size_bytes} bytes instead of {size_bytes}", where=blobs.where)
    try:
        await _copied(blobs, claim, copy, moved)
    except BlobMissingError:
        raise ClaimMissingError(claim, where=blobs.where) from None
    try:
        probe = await _verified(blobs, copy, staged, moved)
        created = not await _is_there(blobs, target, size_bytes)
        if created:
            await _copied(blobs, copy, target, moved)
        return Promoted(probe, created)
    finally:
        await blobs.delete(copy)


async def discard(blobs: Blobs, claim: str) -> None:
    """Delete a staged body after its record is committed; may be repeated."""
    # The claim comes from a message: it must never reach what the service itself has stored.
    if claim.startswith(STAGING_PREFIX):
        await blobs.delete(claim)


class StagedBodies:
    """The staged bodies of one blob store, as the worker's port for them."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def promote(self, staged: StagedBody, *, moved: Callable[[], None]) -> MediaProbe:
        """Verify a staged body, put it at its content address, and return what it is; see `verify_and_promote`."""
        return (await verify_and_promote(self._blobs, staged, moved=moved)).probe

    async def discard(self, claim: str) -> None:
        """Delete a staged body after its record is committed; may be repeated."""
        await discard(self._blobs, claim)


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


async def _verified(blobs: Blobs, copy: str, staged: StagedBody, moved: Callable[[], None]) -> MediaProbe:
    stat = await blobs.stat(copy)
    if stat is None or stat.size_bytes != staged.size_bytes:
        mismatch = f"{stat.size_bytes if stat else 0} bytes instead of {staged.size_bytes}"
        raise ClaimMismatchError(staged.claim, mismatch, where=blobs.where)
    digest = sha256()
    probe = MediaProbe()
    async with aclosing(blobs.stream(copy, VERIFY_CHUNK_BYTES)) as chunks:
        async for chunk in chunks:
            probe.feed(chunk)
            if len(chunk) >= HASH_IN_THREAD_BYTES_MIN:
                await asyncio.to_thread(digest.update, chunk)
            else:
                digest.update(chunk)
            moved()
    if digest.hexdigest() != staged.sha256_hex:
        raise ClaimMismatchError(staged.claim, f"its SHA-256 is {digest.hexdigest()}", where=blobs.where)
    return probe
