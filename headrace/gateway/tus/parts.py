"""The bytes of one PATCH on their way into the store, as parts that any gateway can put together later.

A part counts once PostgreSQL has it, in the transaction that moves the offset. So what HEAD acknowledges is in the
store, and what is in the store but not acknowledged is only clutter, which goes with the upload. Each key is used once:
bytes that were left there by a request that died are never taken for others.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from headrace.gateway.problems import Problem, ProblemCode
from headrace.gateway.uploads.receiving import GATEWAY_PREFIX
from headrace.schemas.limits import MIB
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import discard
from headrace.store.requests.uploads import Upload, UploadPart, Uploads

PART_BYTES = 8 * MIB
PARTS_HELD_MAX = 2  # one is filled while the one before it is on its way


def prefix_of(upload_id: UUID) -> str:
    """Return under which keys everything of an upload lies."""
    return f"{GATEWAY_PREFIX}uploads/{upload_id}/"


async def clear(blobs: Blobs, upload_id: UUID) -> None:
    """Delete everything of an upload, whoever put it there; may be repeated."""
    async for one in blobs.list(prefix_of(upload_id)):
        await discard(blobs, one.key)


class Writing:
    """Takes the bytes of one PATCH. Holds two parts at most."""

    def __init__(
        self, blobs: Blobs, uploads: Uploads, upload: Upload, by: UUID, *, part_bytes: int, counts_at_once: bool
    ) -> None:
        """Write on from the upload's offset. Parts count at once, or all together by `count`."""
        self._blobs = blobs
        self._uploads = uploads
        self._upload = upload
        self._by = by
        self._counts_at_once = counts_at_once
        self._buffer = memoryview(bytearray(part_bytes))
        self._filled = 0
        self._offset = upload.offset_bytes
        self._uncounted: list[UploadPart] = []
        self._keeping: asyncio.Task[None] | None = None

    @property
    def offset_bytes(self) -> int:
        """How far the upload has come with everything that was written."""
        return self._offset + self._filled

    async def write(self, chunk: bytes) -> None:
        """Take some bytes; waits for the store.

        Raises:
            Problem: they go beyond the end of the upload (413), or somebody else writes to it by now (409).
            StoreUnavailable, StoreRefused, CatalogUnavailable, CatalogRefused.
        """
        if self.offset_bytes + len(chunk) > self._upload.length_bytes:
            raise beyond_the_end(self._upload.length_bytes)
        left = memoryview(chunk)
        while left:
            taken = min(len(left), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = left[:taken]
            self._filled += taken
            left = left[taken:]
            if self._filled == len(self._buffer):
                await self._send()

    async def flush(self) -> None:
        """Put what came since the last part, and wait until everything is there; raises as `write` does."""
        if self._filled:
            await self._send()
        await self._sent()

    async def count(self) -> None:
        """Count everything that did not count at once, as one; raises as `write` does."""
        # From here on they are not this object's to drop: where PostgreSQL's answer is lost, they may count.
        parts, self._uncounted = self._uncounted, []
        if parts:
            await self._record(parts)

    async def drop(self) -> None:
        """Leave nothing of what did not count."""
        with suppress(Exception):
            await self._sent()
        await self._discard(self._uncounted)

    async def _send(self) -> None:
        # Only then is there room for a copy.
        await self._sent()
        body = bytes(self._buffer[: self._filled])
        self._keeping = asyncio.create_task(self._keep(self._offset, body))
        self._offset += self._filled
        self._filled = 0

    async def _sent(self) -> None:
        if self._keeping is not None:
            await self._keeping

    async def _keep(self, offset: int, body: bytes) -> None:
        part = UploadPart(offset, len(body), f"{prefix_of(self._upload.upload_id)}{offset}-{self._by.hex}")
        if not self._counts_at_once:
            self._uncounted.append(part)
        await self._blobs.put(part.store_key, body)
        if self._counts_at_once:
            await self._record([part])

    async def _record(self, parts: Sequence[UploadPart]) -> None:
        if not await self._uploads.record(self._upload.upload_id, self._by, parts):
            await self._discard(parts)
            raise Problem(
                409,
                ProblemCode.CONFLICT,
                "the upload was ended, or another request writes to it by now",
                hint="ask for its offset with HEAD, and go on from there",
            )

    async def _discard(self, parts: Sequence[UploadPart]) -> None:
        for part in parts:
            with suppress(Exception):  # what stays after all goes with the upload
                await discard(self._blobs, part.store_key)


def beyond_the_end(length_bytes: int) -> Problem:
    """Return the problem for bytes beyond the declared length."""
    return Problem(413, ProblemCode.TOO_LARGE, f"the bytes go beyond the upload's end at {length_bytes}")
