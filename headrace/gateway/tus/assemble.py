"""The end of a resumable upload: its parts become one file, which is inspected and published like any other.

Whoever holds an upload in the state 'joining' may do this, and do it again: the request of the last byte, a later one
after a gateway was killed, or the sweeper. What it notes as an ingest request has the upload's own id, so a repetition
finds what was published before.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from fastapi import Request

from headrace.gateway.auth.principal import Principal, Role
from headrace.gateway.problems import Problem, as_problem
from headrace.gateway.services import Services
from headrace.gateway.tus.lock import Held
from headrace.gateway.tus.parts import clear, prefix_of
from headrace.gateway.tus.upload_headers import Declared
from headrace.gateway.uploads.publish import PublishedItem, UploadSource, settle, take_file
from headrace.gateway.uploads.receiving import HEAD_BYTES, Received
from headrace.gateway.uploads.scanning import scanned
from headrace.schemas.limits import INLINE_BYTES_MAX, MIB
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.store.blobs.blob_store import STREAM_PART_BYTES, STREAM_PARTS_AT_ONCE_MAX
from headrace.store.blobs.staging import stage
from headrace.store.errors import BlobMissingError
from headrace.store.requests.requests import RequestItem
from headrace.store.requests.uploads import Upload, UploadPart

CHUNK_BYTES = 4 * MIB
# Of an upload to the store: the parts on their way, the one that is filled, and a chunk that goes into it.
STREAM_BYTES_MAX = (STREAM_PARTS_AT_ONCE_MAX + 1) * STREAM_PART_BYTES + CHUNK_BYTES
REASON_CHARACTERS_MAX = 500


async def join(here: Services, hold: Held, request: Request | None = None) -> None:
    """Publish the file of an upload whose bytes are all there; afterwards it is 'done' or 'failed', and has no parts.

    Raises:
        Problem, Rejected: the file can never be ingested.
        Problem with 429 or 5xx, HeadraceError: there is no room, or a service is away; the upload stays as it is, and
            this may be repeated.
    """
    upload = hold.upload
    before = await here.requests.items(upload.upload_id)
    try:
        item = before[0] if before else await _publish(here, hold, request or _untraced())
    except (Problem, RejectedError) as error:
        problem = as_problem(error)
        if problem.status_code == HTTPStatus.TOO_MANY_REQUESTS or problem.status_code >= 500:
            raise  # it passes: the upload stays as it is
        reason = str(problem.detail)[:REASON_CHARACTERS_MAX]
        if await here.uploads.fail(upload.upload_id, hold.by, problem.code, reason):
            await clear(here.blobs, upload.upload_id)
        raise
    assert item.digest and item.topic and item.partition is not None and item.offset is not None  # noqa: PT018
    if await here.uploads.finish(
        upload.upload_id, hold.by, digest=item.digest, topic=item.topic, partition=item.partition, offset=item.offset
    ):
        await clear(here.blobs, upload.upload_id)


async def _publish(here: Services, hold: Held, request: Request) -> RequestItem:
    taken = await _take(here, hold.upload, request)
    creator = Principal(hold.upload.actor, Role.DEVICE, ())
    await settle(here, creator, _source_of(hold.upload), hold.upload.upload_id, [taken])
    return taken.item


async def _take(here: Services, upload: Upload, request: Request) -> PublishedItem:
    said = Declared.from_json(upload.metadata)
    inline = upload.length_bytes <= INLINE_BYTES_MAX
    # In memory: the parts, what they make together, and its beginning.
    most = 2 * upload.length_bytes + HEAD_BYTES if inline else STREAM_BYTES_MAX
    reserved = await here.budget.take(most)
    try:
        parts = await here.uploads.parts(upload.upload_id)
        received = await (_in_memory(here, parts) if inline else _staged(here, upload, parts))
        said.check(received.sha256)
        found = await here.inspector.inspect(received.head, received.size_bytes)
        return await take_file(
            here,
            request,
            _source_of(upload),
            received,
            found,
            filename=said.filename,
            about=said.about,
            captured_at_us=said.captured_at_us,
        )
    except BlobMissingError:
        raise RejectedError(RejectCode.CLAIM_MISSING, "a part of the upload is gone; begin a new one") from None
    finally:
        here.budget.give(reserved)


async def _in_memory(here: Services, parts: Sequence[UploadPart]) -> Received:
    reading = _Reading(here, parts)
    body = b"".join([chunk async for chunk in reading.chunks()])
    return Received(reading.digest.hexdigest(), len(body), body, body, None)


async def _staged(here: Services, upload: Upload, parts: Sequence[UploadPart]) -> Received:
    claim = f"{prefix_of(upload.upload_id)}joined"
    reading = _Reading(here, parts)
    await stage(here.blobs, claim, reading.chunks())
    return Received(reading.digest.hexdigest(), upload.length_bytes, bytes(reading.head), None, claim)


class _Reading:
    """Reads parts in their order, and hashes and scans them while they pass."""

    def __init__(self, here: Services, parts: Sequence[UploadPart]) -> None:
        self._blobs = here.blobs
        self._scanner = here.scanner
        self._parts = parts
        self.digest: Any = sha256()
        self.head = bytearray()

    def chunks(self) -> AsyncIterator[bytes]:
        return scanned(self._scanner, self._read())

    async def _read(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            for offset in range(0, part.size_bytes, CHUNK_BYTES):
                length = min(CHUNK_BYTES, part.size_bytes - offset)
                chunk = await self._blobs.get(part.store_key, offset=offset, length=length)
                await asyncio.to_thread(self.digest.update, chunk)
                if len(self.head) < HEAD_BYTES:
                    self.head += chunk[: HEAD_BYTES - len(self.head)]
                yield chunk


def _source_of(upload: Upload) -> UploadSource:
    return UploadSource(upload.site, upload.source_id)


def _untraced() -> Request:
    """Nobody asks for it now, so there is no trace that it belongs to."""
    return Request({"type": "http", "headers": []})
