"""Records to samples: bodies are read ahead, beside each other, and come out in the records' order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from headrace.batch.export.measured import Quality
from headrace.batch.export.plan import Split, split_of
from headrace.batch.export.request import ExportRequest
from headrace.batch.export.sample import Sample, SampleBodies, has_text, sample_of
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import read_placed
from headrace.store.catalog.exports import Exported, Exports
from headrace.store.errors import BlobArchivedError, BlobCorruptError, BlobMissingError

AHEAD_RECORDS_MAX = 32
AHEAD_BYTES_MAX = 64 * 1024 * 1024  # of bodies that are read ahead; a larger one is read alone

I = TypeVar("I")  # noqa: E741
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failed:
    """A record whose bytes cannot be exported, and why."""

    record_id: UUID
    code: str


class Samples:
    """The samples of a request."""

    def __init__(
        self,
        exports: Exports,
        blobs: Blobs,
        request: ExportRequest,
        *,
        has_media: bool,
        measured: Mapping[UUID, Quality] | None,
    ) -> None:
        """Use opened ports; `measured` has the frames that keep the bounds of quality, where there are any."""
        self._exports = exports
        self._blobs = blobs
        self._request = request
        self._has_media = has_media
        self._measured = measured

    async def of(self, split: Split, *, after: UUID | None) -> AsyncGenerator[Sample | Failed]:
        """Yield the samples of a split in the order of their records, those up to `after` left out.

        Raises:
            HeadraceError: the catalog or the store is away.
        """
        found = read_ahead(self._wanted(split, after), lambda one: self._sample(one, split), self._size)
        async for sample in found:
            if sample is not None:
                yield sample

    async def _wanted(self, split: Split, after: UUID | None) -> AsyncIterator[Exported]:
        share, labels = self._request.validation_share, self._request.labels
        async for one in self._exports.records(self._request.wanted, after=after):
            if split_of(one.record.digest, one.clip_sha256, share) is not split:
                continue
            if one.label is not None and labels is not None and one.label not in labels:
                continue  # known before its body is read
            if self._measured is None or one.record.record_id in self._measured:
                yield one

    async def _sample(self, one: Exported, split: Split) -> Sample | Failed | None:
        """Return a sample; None where its label is not among the wanted ones."""
        record_id = one.record.record_id
        try:
            bodies = await self._bodies(one)
        except (BlobMissingError, BlobCorruptError, BlobArchivedError) as error:
            return Failed(record_id, error.code)
        quality = None if self._measured is None else self._measured[record_id]
        sample = sample_of(one, bodies, split=split, quality=quality)
        labels = self._request.labels
        return sample if labels is None or sample.fields["label"] in labels else None

    async def _bodies(self, one: Exported) -> SampleBodies:
        try:
            return await self._bodies_at(one)
        except BlobMissingError:
            # What the catalog said is as old as its page: the archive may have moved them since.
            return await self._bodies_at(await self._anew(one))

    async def _bodies_at(self, one: Exported) -> SampleBodies:
        wants_own = self._has_media or has_text(one.record.kind)
        return SampleBodies(
            await read_placed(self._blobs, one.record) if wants_own else None,
            await read_placed(self._blobs, one.clip) if self._has_media and one.clip is not None else None,
        )

    async def _anew(self, one: Exported) -> Exported:
        before = UUID(int=one.record.record_id.int - 1)
        async with aclosing(self._exports.records(self._request.wanted, after=before)) as records:
            return await anext(records, one)

    def _size(self, one: Exported) -> int:
        own = one.record.size_bytes if self._has_media or one.record.kind == Kind.LDO else 0
        return own + (one.clip.size_bytes if self._has_media and one.clip else 0)


async def read_ahead(
    items: AsyncIterator[I],
    read: Callable[[I], Awaitable[T]],
    size_of: Callable[[I], int],
    *,
    items_max: int = AHEAD_RECORDS_MAX,
    bytes_max: int = AHEAD_BYTES_MAX,
) -> AsyncGenerator[T]:
    """Yield what `read` returns for each item, in their order, with so many of them under way and held at a time."""
    under_way: deque[tuple[asyncio.Future[T], int]] = deque()
    held = 0
    try:
        async for item in items:
            size = size_of(item)
            while under_way and (len(under_way) >= items_max or held + size > bytes_max):
                done, freed = under_way.popleft()
                held -= freed
                yield await done
            under_way.append((asyncio.ensure_future(read(item)), size))
            held += size
        while under_way:
            yield await under_way.popleft()[0]
    finally:
        for left, _ in under_way:
            left.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await left
