"""Store the bytes of a PATCH request as parts, which any gateway can assemble later.

A part counts once PostgreSQL has its row, which the transaction that moves the offset writes. So the store has all
bytes that HEAD acknowledges; objects without a row are deleted with the upload. Each key is used once, so the objects
of an interrupted request are never taken for those of another.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import Request
from starlette.requests import ClientDisconnect

from headrace.gateway.auth.guard import limit_upload_bytes, limit_upload_mebibytes
from headrace.gateway.auth.principal import Principal
from headrace.gateway.auth.rate_limiter import mebibytes
from headrace.gateway.problems import Problem, ProblemCode
from headrace.gateway.tus.lock import UploadLock
from headrace.gateway.tus.protocol import Checksum, body_bytes_of
from headrace.gateway.uploads.memory import MemoryReservation
from headrace.gateway.uploads.pipeline import UploadReceiver
from headrace.gateway.uploads.receiving import GATEWAY_PREFIX
from headrace.schemas.limits import CLIP_BYTES_MAX, MIB
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import discard
from headrace.store.requests.uploads import Upload, UploadPart, Uploads

PART_BYTES = 8 * MIB
PARTS_MAX = 4096  # of an upload: the largest has 256 parts of 8 MiB
PART_BYTES_MIN = MIB  # of a part that is stored early because there is no more memory


def prefix_of(upload_id: UUID) -> str:
    """Return the prefix of all keys of an upload."""
    return f"{GATEWAY_PREFIX}uploads/{upload_id}/"


async def delete_parts(blobs: Blobs, upload_id: UUID) -> None:
    """Delete all objects of an upload; may be repeated."""
    async for entry in blobs.list(prefix_of(upload_id)):
        await discard(blobs, entry.key)


def too_long(length_bytes: int) -> Problem:
    """Return the problem for bytes beyond the declared length, or beyond that of the largest file."""
    return Problem(413, ProblemCode.TOO_LARGE, f"the body exceeds the upload's length of {length_bytes} bytes")


def bytes_max_of(upload: Upload) -> int:
    """Return how many bytes an upload takes: its length, or those of the largest file while that is unknown."""
    return CLIP_BYTES_MAX if upload.length_bytes is None else upload.length_bytes


class PartWriter:
    """Writes the body of one PATCH request as parts, and holds two of them in memory at most.

    A part is smaller where there is no memory for more.
    """

    def __init__(
        self,
        receiver: UploadReceiver,
        uploads: Uploads,
        lock: UploadLock,
        reservation: MemoryReservation,
        *,
        is_atomic: bool,
    ) -> None:
        """Write from the upload's offset; parts are recorded one by one, or together by `commit` if `is_atomic`."""
        self._blobs = receiver.blobs
        self._uploads = uploads
        self._upload = lock.upload
        self._holder = lock.holder
        self._is_atomic = is_atomic
        self._reservation = reservation
        self._buffer = bytearray()
        self._offset = lock.upload.offset_bytes
        self._unrecorded: list[UploadPart] = []
        self._storing: asyncio.Task[None] | None = None

    @property
    def offset_bytes(self) -> int:
        """The upload's offset after all bytes written so far."""
        return self._offset + len(self._buffer)

    async def write(self, chunk: bytes) -> None:
        """Write bytes; waits for the store.

        Raises:
            Problem: the bytes exceed the upload's length (413), the lock was lost (409), or there is no memory (503).
            StoreUnavailableError, StoreRefusedError, CatalogUnavailableError, CatalogRefusedError.
        """
        if self.offset_bytes + len(chunk) > bytes_max_of(self._upload):
            raise too_long(bytes_max_of(self._upload))
        rest = memoryview(chunk)
        while rest:
            size = min(len(rest), PART_BYTES - len(self._buffer))
            if not self._reservation.hold(size):
                await self._make_room(size)
            self._buffer += rest[:size]
            rest = rest[size:]
            if len(self._buffer) == PART_BYTES:
                await self._store_buffer()

    async def flush(self) -> None:
        """Store the buffered bytes and wait until all parts are stored; raises as `write` does."""
        if self._buffer:
            await self._store_buffer()
        await self._stored()

    async def commit(self) -> None:
        """Record all parts of an atomic write together; raises as `write` does."""
        # They are not deleted from here on: where PostgreSQL's answer is lost, they may be recorded.
        parts, self._unrecorded = self._unrecorded, []
        if parts:
            await self._record(parts)

    async def abort(self) -> None:
        """Delete the parts that were not recorded."""
        with suppress(Exception):
            await self._stored()
        await self._discard(self._unrecorded)

    async def _make_room(self, size_bytes: int) -> None:
        """Store what is held early, and hold `size_bytes` then."""
        if len(self._buffer) >= PART_BYTES_MIN:
            await self._store_buffer()
        await self._stored()
        self._reservation.require(size_bytes)

    async def _store_buffer(self) -> None:
        # One part is filled while the previous one is being stored.
        await self._stored()
        body, self._buffer = bytes(self._buffer), bytearray()
        self._storing = asyncio.create_task(self._store(self._offset, body))
        self._offset += len(body)

    async def _stored(self) -> None:
        if self._storing is not None:
            await self._storing

    async def _store(self, offset: int, body: bytes) -> None:
        part = UploadPart(offset, len(body), f"{prefix_of(self._upload.upload_id)}{offset}-{self._holder.hex}")
        if self._is_atomic:
            self._unrecorded.append(part)
        await self._blobs.put(part.store_key, body)
        self._reservation.release(len(body))
        if not self._is_atomic:
            await self._record([part])

    async def _record(self, parts: Sequence[UploadPart]) -> None:
        if not await self._uploads.record(self._upload.upload_id, self._holder, parts):
            await self._discard(parts)
            raise Problem(
                409,
                ProblemCode.CONFLICT,
                "the upload was terminated, or another request writes to it",
                hint="request its offset with HEAD, and continue from there",
            )

    async def _discard(self, parts: Sequence[UploadPart]) -> None:
        for part in parts:
            with suppress(Exception):  # the rest is deleted with the upload
                await discard(self._blobs, part.store_key)


@dataclass(frozen=True, slots=True)
class PatchReceiver:
    """Receives the bodies of PATCH requests."""

    uploads: Uploads
    receiver: UploadReceiver

    async def receive(self, request: Request, principal: Principal, lock: UploadLock, checksum: Checksum | None) -> int:
        """Append the request's body to a locked upload; returns the new offset.

        With a checksum all bytes are recorded together, or none.

        Raises:
            Problem: the body exceeds the upload's length or the upload has too many parts (413), the body does not
                match the checksum (460), is incomplete (400), too slow (408) or beyond the hourly limit (429), or the
                lock was lost (409).
            StoreUnavailableError, StoreRefusedError, CatalogUnavailableError, CatalogRefusedError.
        """
        upload = lock.upload
        missing = bytes_max_of(upload) - upload.offset_bytes
        expected = body_bytes_of(request.headers)
        if expected is not None and expected > missing:
            raise too_long(bytes_max_of(upload))
        if expected == 0 or not missing:
            return upload.offset_bytes
        if await self.uploads.part_count(upload.upload_id) >= PARTS_MAX:
            raise Problem(
                413,
                ProblemCode.TOO_LARGE,
                f"the upload has {PARTS_MAX} parts",
                hint="begin a new one, and send more bytes with each request",
            )
        if expected is not None:
            await limit_upload_bytes(request, principal, expected)
        reservation = MemoryReservation(self.receiver.memory, principal.actor)
        try:
            writer = PartWriter(self.receiver, self.uploads, lock, reservation, is_atomic=checksum is not None)
            chunks = request.stream() if expected is not None else _limited_chunks(request, principal)
            await _write_body(chunks, writer, checksum)
            return writer.offset_bytes
        finally:
            reservation.close()


async def _write_body(chunks: AsyncIterator[bytes], writer: PartWriter, checksum: Checksum | None) -> None:
    digest: Any = None if checksum is None else checksum.new()
    try:
        async for chunk in chunks:
            if digest is not None:
                digest.update(chunk)
            await writer.write(chunk)
        await writer.flush()
        if checksum is not None:
            checksum.check(digest)
            await writer.commit()
    except BaseException as error:
        # The received bytes are kept, whatever ended the request, unless their checksum could not be verified.
        with suppress(Exception):
            await (writer.abort() if checksum is not None else writer.flush())
        if isinstance(error, ClientDisconnect):
            raise Problem(400, ProblemCode.BAD_REQUEST, "the body is incomplete") from None
        raise


async def _limited_chunks(request: Request, principal: Principal) -> AsyncIterator[bytes]:
    """Yield a body of unknown length, counted against the caller's hourly limit chunk by chunk."""
    size_bytes = 0
    async for chunk in request.stream():
        counted = mebibytes(size_bytes)
        size_bytes += len(chunk)
        if added := mebibytes(size_bytes) - counted:
            await limit_upload_mebibytes(request, principal, added)
        yield chunk
