"""Receive a body: hash it on the way, hold it in memory while it is small, and stage it in the store otherwise.

A body of at most INLINE_BYTES_MAX, which fits into a message, is held in the memory that uploads share. A larger one is
streamed to the store under staging/, and the message has its claim. An abandoned body is deleted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID, uuid4

from headrace.gateway.problems import Problem, ProblemCode
from headrace.gateway.uploads.memory import MemoryReservation
from headrace.gateway.uploads.scanning import Scan
from headrace.schemas.digest import HASH_IN_THREAD_BYTES_MIN
from headrace.schemas.limits import CLIP_BYTES_MAX, INLINE_BYTES_MAX, MIB
from headrace.schemas.media_probe import MediaProbe
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import STAGING_PREFIX, discard, stage

_CHUNKS_WAITING_MAX = 4
# No source's prefix has a '~', so only the gateway stages here.
GATEWAY_PREFIX = f"{STAGING_PREFIX}~gateway/"


@dataclass(frozen=True, slots=True)
class ReceivedBody:
    """A complete body: inline in `body`, or staged under `claim`, and then `probe` read all of it."""

    sha256: str
    size_bytes: int
    body: bytes | None
    claim: str | None = None
    probe: MediaProbe | None = None


class BodyReceiver:
    """Receives one body: call `write` for each chunk, then `finish`; or `abandon`, in any state."""

    def __init__(
        self,
        blobs: Blobs,
        reservation: MemoryReservation,
        *,
        scan: Scan | None = None,
        bytes_max: int = CLIP_BYTES_MAX,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        """Hold bytes in `reservation` while there is memory and they fit into a message; `scan` gets every byte."""
        self._scan = scan
        self._blobs = blobs
        self._reservation = reservation
        self._bytes_max = bytes_max
        self._claim = f"{GATEWAY_PREFIX}{new_id()}"
        self._digest = sha256()
        self._held = bytearray()
        self._reserved = 0
        self._turn = AsyncExitStack()
        self._probe = MediaProbe()
        self._size_bytes = 0
        self._staging: _Staging | None = None

    async def write(self, chunk: bytes) -> None:
        """Write bytes; waits for memory or the store.

        Raises:
            Problem: the body exceeds `bytes_max` (413), or too many are staged (503).
            StoreUnavailableError, StoreRefusedError: the store failed.
        """
        self._size_bytes += len(chunk)
        if self._size_bytes > self._bytes_max:
            raise Problem(413, ProblemCode.TOO_LARGE, f"the file exceeds {self._bytes_max} bytes")
        if len(chunk) >= HASH_IN_THREAD_BYTES_MIN:
            await asyncio.to_thread(self._digest.update, chunk)
        else:
            self._digest.update(chunk)
        if self._scan is not None:
            await self._scan.write(chunk)
        if self._staging is None and not self._hold(chunk):
            await self._spill()
        if self._staging is not None:
            self._probe.feed(chunk)
            await self._staging.write(chunk)

    async def finish(self) -> ReceivedBody:
        """Return the body; a staged one is durable then.

        Raises:
            Problem: the virus scanner found malware (422).
        """
        if self._scan is not None:
            await self._scan.verdict()
        digest = self._digest.hexdigest()
        if self._staging is not None:
            await self._staging.finish()
            await self._turn.aclose()
            return ReceivedBody(digest, self._size_bytes, None, self._claim, self._probe)
        return ReceivedBody(digest, self._size_bytes, bytes(self._held))

    async def abandon(self) -> None:
        """Delete the body."""
        self._release()
        if self._scan is not None:
            await self._scan.abandon()
        if self._staging is not None:
            await self._staging.abandon()
            await self._turn.aclose()
            with suppress(Exception):  # the rest is collected with everything under staging/
                await discard(self._blobs, self._claim)

    def _hold(self, chunk: bytes) -> bool:
        if self._size_bytes > INLINE_BYTES_MAX or not self._reservation.hold(len(chunk)):
            return False
        self._held += chunk
        self._reserved += len(chunk)
        return True

    async def _spill(self) -> None:
        """Continue in the store."""
        await self._turn.enter_async_context(self._reservation.staging())
        self._staging = _Staging(self._blobs, self._claim)
        # In chunks, which avoids a second copy of all bytes.
        for start in range(0, len(self._held), MIB):
            held = bytes(self._held[start : start + MIB])
            self._probe.feed(held)
            await self._staging.write(held)
        self._release()

    def _release(self) -> None:
        """Release the held bytes."""
        self._reservation.release(self._reserved)
        self._reserved = 0
        self._held.clear()


class _Staging:
    """A streamed upload to the store."""

    def __init__(self, blobs: Blobs, claim: str) -> None:
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(_CHUNKS_WAITING_MAX)
        self._task = asyncio.create_task(stage(blobs, claim, self._feed()))

    async def write(self, chunk: bytes) -> None:
        await self._put(chunk)

    async def finish(self) -> None:
        await self._put(None)
        await self._task

    async def abandon(self) -> None:
        self._task.cancel()
        with suppress(BaseException):
            await self._task

    async def _put(self, chunk: bytes | None) -> None:
        putting = asyncio.ensure_future(self._chunks.put(chunk))
        # After a failure the store reads nothing more; its error is raised here.
        await asyncio.wait({putting, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not putting.done():
            putting.cancel()
            await self._task

    async def _feed(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk
