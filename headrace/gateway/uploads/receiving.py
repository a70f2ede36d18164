"""One body on its way in: hashed while it passes, held while it is small, staged in the store once it is not.

What fits a message (INLINE_BYTES_MAX) is held, within a budget that all uploads share. What turns out larger streams to
the store under staging/ and is named by the message as a claim. Bodies are never whole in memory, and what is abandoned
leaves nothing behind.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID, uuid4

from headrace.gateway.problems import Problem, ProblemCode
from headrace.gateway.uploads.memory import MemoryReservation
from headrace.gateway.uploads.scanning import Scan
from headrace.schemas.limits import CLIP_BYTES_MAX, INLINE_BYTES_MAX, MIB
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import STAGING_PREFIX, discard, stage

HEAD_BYTES = 4 * MIB  # of a staged body; a movie header in front of the data fits
_HASH_IN_THREAD_BYTES_MIN = 256 * 1024
_CHUNKS_WAITING_MAX = 4
# '~' stands in no source's prefix, so nobody else stages here.
GATEWAY_PREFIX = f"{STAGING_PREFIX}~gateway/"


@dataclass(frozen=True, slots=True)
class ReceivedBody:
    """A body that came whole: inline in `body`, or staged under `claim`; `head` is its beginning."""

    sha256: str
    size_bytes: int
    head: bytes
    body: bytes | None
    claim: str | None


class BodyReceiver:
    """Takes one body. `write` until the end, then `finish`; or `abandon`, which may be called in any state."""

    def __init__(
        self,
        blobs: Blobs,
        reservation: MemoryReservation,
        *,
        scan: Scan | None = None,
        bytes_max: int = CLIP_BYTES_MAX,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        """Hold bytes in `reservation` while they fit a message and it; `scan` sees every byte."""
        self._scan = scan
        self._blobs = blobs
        self._reservation = reservation
        self._bytes_max = bytes_max
        self._claim = f"{GATEWAY_PREFIX}{new_id()}"
        self._digest = sha256()
        self._held = bytearray()
        self._head = b""
        self._size_bytes = 0
        self._staging: _Staging | None = None

    async def write(self, chunk: bytes) -> None:
        """Take some bytes; waits for room, or for the store.

        Raises:
            Problem: it becomes larger than `bytes_max` (413).
            StoreUnavailable, StoreRefused: the store does not take it.
        """
        self._size_bytes += len(chunk)
        if self._size_bytes > self._bytes_max:
            raise Problem(413, ProblemCode.TOO_LARGE, f"the file is larger than {self._bytes_max} bytes")
        if len(chunk) >= _HASH_IN_THREAD_BYTES_MIN:
            await asyncio.to_thread(self._digest.update, chunk)
        else:
            self._digest.update(chunk)
        if self._scan is not None:
            await self._scan.write(chunk)
        if self._staging is None and not await self._hold(chunk):
            await self._spill()
        if self._staging is not None:
            await self._staging.write(chunk)

    async def finish(self) -> ReceivedBody:
        """Return what came; a staged body is durable then.

        Raises:
            Problem: the virus scanner found something (422).
        """
        if self._scan is not None:
            await self._scan.verdict()
        digest = self._digest.hexdigest()
        if self._staging is not None:
            await self._staging.finish()
            return ReceivedBody(digest, self._size_bytes, self._head, None, self._claim)
        body = bytes(self._held)
        return ReceivedBody(digest, self._size_bytes, body, body, None)

    async def abandon(self) -> None:
        """Leave nothing behind."""
        self._let_go()
        if self._scan is not None:
            await self._scan.abandon()
        if self._staging is not None:
            await self._staging.abandon()
            with suppress(Exception):  # what stays after all is collected with everything under staging/
                await discard(self._blobs, self._claim)

    async def _hold(self, chunk: bytes) -> bool:
        if self._size_bytes > INLINE_BYTES_MAX or not await self._reservation.hold(len(chunk)):
            return False
        self._held += chunk
        return True

    async def _spill(self) -> None:
        """Go on in the store."""
        self._head = bytes(self._held[:HEAD_BYTES])
        self._staging = _Staging(self._blobs, self._claim)
        # In pieces, so that no second copy of all of it is made.
        for start in range(0, len(self._held), MIB):
            await self._staging.write(bytes(self._held[start : start + MIB]))
        self._let_go()

    def _let_go(self) -> None:
        self._reservation.release(len(self._held))
        self._held.clear()


class _Staging:
    """An upload to the store that is fed from outside."""

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
        # A store that refuses takes nothing more, and its error is what the caller has to hear.
        await asyncio.wait({putting, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not putting.done():
            putting.cancel()
            await self._task

    async def _feed(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk
