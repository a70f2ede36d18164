"""Reads the samples of an export, and the quality of frames from the topic of the preprocessing consumer.

Bodies are read ahead concurrently and returned in the order of the records.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeAlias, TypeVar
from uuid import UUID

from headrace.batch.export.request import MEASURES, ExportRequest, QualityBound, Split, is_within, split_of
from headrace.batch.export.sample import Sample, SampleBodies, has_json_body, sample_of
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.codec import decode
from headrace.schemas.events import Kind, PreprocessedFrame
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import PREPROCESSED
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import read_placed
from headrace.store.catalog.exports import Exported, Exports
from headrace.store.errors import BlobArchivedError, BlobCorruptError, BlobMissingError

AHEAD_RECORDS_MAX = 32
AHEAD_BYTES_MAX = 64 * 1024 * 1024  # of bodies read ahead; a larger body is read alone

MeasuredQuality: TypeAlias = dict[str, float | int]
Item = TypeVar("Item")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FailedRecord:
    """A record whose bytes cannot be exported, and the error code."""

    record_id: UUID
    code: str


class SampleReader:
    """Reads the samples of a request."""

    def __init__(
        self,
        exports: Exports,
        blobs: Blobs,
        request: ExportRequest,
        *,
        has_media: bool,
        quality: Mapping[UUID, MeasuredQuality] | None,
    ) -> None:
        """`quality` holds the frames that meet the request's bounds, or is None if it has none."""
        self._exports = exports
        self._blobs = blobs
        self._request = request
        self._has_media = has_media
        self._quality = quality

    async def of(self, split: Split, *, after: UUID | None) -> AsyncGenerator[Sample | FailedRecord]:
        """Yield the samples of a split in the order of their records, starting after the record `after`.

        Raises:
            HeadraceError: the catalog or the store is unreachable.
        """
        samples = read_ahead(self._selected(split, after), lambda record: self._sample(record, split), self._size)
        async for sample in samples:
            if sample is not None:
                yield sample

    async def _selected(self, split: Split, after: UUID | None) -> AsyncIterator[Exported]:
        share, labels = self._request.validation_share, self._request.labels
        async for exported in self._exports.records(self._request.wanted, after=after):
            if split_of(exported.record.digest, exported.clip_sha256, share) is not split:
                continue
            if exported.label is not None and labels is not None and exported.label not in labels:
                continue  # without reading its body
            if self._quality is None or exported.record.record_id in self._quality:
                yield exported

    async def _sample(self, exported: Exported, split: Split) -> Sample | FailedRecord | None:
        """Return a sample; None if its label is not selected."""
        record_id = exported.record.record_id
        try:
            bodies = await self._bodies(exported)
        except (BlobMissingError, BlobCorruptError, BlobArchivedError) as error:
            return FailedRecord(record_id, error.code)
        quality = None if self._quality is None else self._quality[record_id]
        sample = sample_of(exported, bodies, split=split, quality=quality)
        labels = self._request.labels
        return sample if labels is None or sample.fields["label"] in labels else None

    async def _bodies(self, exported: Exported) -> SampleBodies:
        try:
            return await self._read_bodies(exported)
        except BlobMissingError:
            # The archive job may have moved the body since the catalog's page was read.
            return await self._read_bodies(await self._reload(exported))

    async def _read_bodies(self, exported: Exported) -> SampleBodies:
        record, clip = exported.record, exported.clip
        needs_own = self._has_media or has_json_body(record.kind)
        return SampleBodies(
            await read_placed(self._blobs, record) if needs_own else None,
            await read_placed(self._blobs, clip) if self._has_media and clip is not None else None,
        )

    async def _reload(self, exported: Exported) -> Exported:
        before = UUID(int=exported.record.record_id.int - 1)
        async with aclosing(self._exports.records(self._request.wanted, after=before)) as records:
            return await anext(records, exported)

    def _size(self, exported: Exported) -> int:
        own = exported.record.size_bytes if self._has_media or exported.record.kind == Kind.LDO else 0
        return own + (exported.clip.size_bytes if self._has_media and exported.clip else 0)


async def read_ahead(
    items: AsyncIterator[Item],
    read: Callable[[Item], Awaitable[T]],
    size_of: Callable[[Item], int],
    *,
    items_max: int = AHEAD_RECORDS_MAX,
    bytes_max: int = AHEAD_BYTES_MAX,
) -> AsyncGenerator[T]:
    """Yield the result of `read` for each item, in order; at most `items_max` and `bytes_max` are pending at a time."""
    pending: deque[tuple[asyncio.Future[T], int]] = deque()
    pending_bytes = 0
    try:
        async for item in items:
            size = size_of(item)
            while pending and (len(pending) >= items_max or pending_bytes + size > bytes_max):
                done, freed = pending.popleft()
                pending_bytes -= freed
                yield await done
            pending.append((asyncio.ensure_future(read(item)), size))
            pending_bytes += size
        while pending:
            yield await pending.popleft()[0]
    finally:
        for future, _ in pending:
            future.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await future


def measured_frames(
    settings: Settings, bounds: Iterable[QualityBound], *, until_us: int, cancelled: threading.Event
) -> dict[UUID, MeasuredQuality]:
    """Return the measures of each frame that meets the bounds; uses some 500 bytes of memory for each.

    It blocks and reads the whole topic up to `until_us`, and stops early once `cancelled` is set.

    Raises:
        HeadraceError: Kafka does not answer.
    """
    bounds = tuple(bounds)
    quality: dict[UUID, MeasuredQuality] = {}
    with reading_consumer(settings, "headrace-export") as consumer:
        reader = TopicReader(consumer, offset_bounds(consumer, partitions_of(consumer, PREPROCESSED.name)))
        while reader.unfinished and not cancelled.is_set():
            for message in reader.read():
                # The broker's timestamp of the append, so the same time selects the same messages in every run.
                if message.timestamp()[1] * 1000 >= until_us:
                    continue
                try:
                    event = decode(message.value(), PreprocessedFrame)
                    record = UUID(event.record_id)
                except (RejectedError, ValueError):
                    continue  # not one of our messages; consumers of the topic report it
                if is_within(event, bounds):
                    quality.setdefault(record, {name: getattr(event, name) for name in MEASURES})
    return quality
