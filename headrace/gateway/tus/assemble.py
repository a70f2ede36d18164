"""Assemble the parts of a completed upload into one file, which is inspected and published like any other.

Any holder of the lock of an upload in the state 'joining' may assemble it, and may repeat that: the request with the
last byte, or for a final upload, a later request after a gateway was killed, or the sweeper. The ingest request has the
upload's id, so a repetition finds what was published before.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from headrace.gateway.problems import Problem, as_problem
from headrace.gateway.tus.lock import UploadLock
from headrace.gateway.tus.parts import delete_parts, prefix_of
from headrace.gateway.tus.protocol import DeclaredFile
from headrace.gateway.uploads.pipeline import UploadPipeline, UploadReceiver
from headrace.gateway.uploads.publish import FileDetails, PublishedItem, UploadSource
from headrace.gateway.uploads.receiving import ReceivedBody
from headrace.gateway.uploads.scanning import scanned
from headrace.schemas.limits import INLINE_BYTES_MAX, MIB
from headrace.schemas.media_probe import MediaProbe
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.store.blobs.blob_store import STREAM_PART_BYTES, STREAM_PARTS_AT_ONCE_MAX
from headrace.store.blobs.staging import stage
from headrace.store.errors import BlobMissingError
from headrace.store.requests.ingest_requests import RequestItem
from headrace.store.requests.uploads import Upload, UploadPart, Uploads

CHUNK_BYTES = 4 * MIB
# Of an upload to the store: the parts in flight, the one being filled, and the chunk that goes into it.
STREAM_BYTES_MAX = (STREAM_PARTS_AT_ONCE_MAX + 1) * STREAM_PART_BYTES + CHUNK_BYTES
REASON_CHARACTERS_MAX = 500


async def assemble(
    uploads: Uploads, pipeline: UploadPipeline, lock: UploadLock, *, traceparent: str | None = None
) -> None:
    """Publish the file of a complete upload; afterwards the upload is 'done' or 'failed', and has no parts.

    Raises:
        Problem, RejectedError: the file was rejected.
        Problem with 429 or 5xx, HeadraceError: out of memory, or a service is unavailable; the upload is unchanged, and
            this may be repeated.
    """
    upload = lock.upload
    recorded = await pipeline.results.requests.items(upload.upload_id)
    try:
        item = recorded[0] if recorded else await _publish(uploads, pipeline, upload, traceparent)
    except (Problem, RejectedError) as error:
        problem = as_problem(error)
        if problem.status_code == HTTPStatus.TOO_MANY_REQUESTS or problem.status_code >= 500:
            raise  # transient: the upload is unchanged
        reason = str(problem.detail)[:REASON_CHARACTERS_MAX]
        for ended in await uploads.fail(upload.upload_id, lock.holder, problem.code, reason):
            await delete_parts(pipeline.receiver.blobs, ended)
        raise
    assert item.digest and item.topic and item.partition is not None and item.offset is not None  # noqa: PT018
    position = item.topic, item.partition, item.offset
    for ended in await uploads.finish(upload.upload_id, lock.holder, digest=item.digest, position=position):
        await delete_parts(pipeline.receiver.blobs, ended)


async def _publish(uploads: Uploads, pipeline: UploadPipeline, upload: Upload, traceparent: str | None) -> RequestItem:
    published = await _publish_file(await uploads.parts(upload.upload_id), pipeline, upload, traceparent)
    await pipeline.results.record(upload.upload_id, upload.actor, _source_of(upload), [published])
    return published.item


async def _publish_file(
    parts: Sequence[UploadPart], pipeline: UploadPipeline, upload: Upload, traceparent: str | None
) -> PublishedItem:
    assert upload.length_bytes is not None  # it is known once all bytes are there
    declared = DeclaredFile.from_json(upload.metadata)
    receiver = pipeline.receiver
    is_inline = upload.length_bytes <= INLINE_BYTES_MAX
    # In memory: the parts, and the file that they make.
    size_bytes = 2 * upload.length_bytes if is_inline else STREAM_BYTES_MAX
    reserved = await receiver.memory.reserve(upload.actor, size_bytes)
    try:
        received = await (_read(receiver, parts) if is_inline else _stage(receiver, upload, parts))
        declared.check(received.sha256)
        details = FileDetails(filename=declared.filename, about=declared.about, captured_at_us=declared.captured_at_us)
        return await pipeline.publish_file(
            _source_of(upload), received, details, traceparent=traceparent, caller=upload.actor
        )
    except BlobMissingError:
        raise RejectedError(RejectCode.CLAIM_MISSING, "a part of the upload is gone; begin a new one") from None
    finally:
        receiver.memory.give_back(upload.actor, reserved)


async def _read(receiver: UploadReceiver, parts: Sequence[UploadPart]) -> ReceivedBody:
    reader = _PartReader(receiver, parts)
    body = b"".join([chunk async for chunk in reader.chunks()])
    return ReceivedBody(reader.digest.hexdigest(), len(body), body)


async def _stage(receiver: UploadReceiver, upload: Upload, parts: Sequence[UploadPart]) -> ReceivedBody:
    claim = f"{prefix_of(upload.upload_id)}joined"
    reader = _PartReader(receiver, parts)
    await stage(receiver.blobs, claim, reader.chunks())
    size_bytes = sum(part.size_bytes for part in parts)
    return ReceivedBody(reader.digest.hexdigest(), size_bytes, None, claim, reader.probe)


class _PartReader:
    """Reads parts in order, and hashes and scans the bytes on the way."""

    def __init__(self, receiver: UploadReceiver, parts: Sequence[UploadPart]) -> None:
        self._receiver = receiver
        self._parts = parts
        self.digest: Any = sha256()
        self.probe = MediaProbe()

    def chunks(self) -> AsyncIterator[bytes]:
        return scanned(self._receiver.scanner, self._read())

    async def _read(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            for offset in range(0, part.size_bytes, CHUNK_BYTES):
                length = min(CHUNK_BYTES, part.size_bytes - offset)
                chunk = await self._receiver.blobs.get(part.store_key, offset=offset, length=length)
                await asyncio.to_thread(self.digest.update, chunk)
                self.probe.feed(chunk)
                yield chunk


def _source_of(upload: Upload) -> UploadSource:
    return UploadSource(upload.site, upload.source_id)
