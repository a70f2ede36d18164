"""Runs an export, or resumes it where an earlier run stopped."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Protocol
from uuid import UUID

from headrace.batch.export.formats import FormatWriter, writer_for
from headrace.batch.export.manifest import (
    MANIFEST,
    ExportResult,
    Shard,
    finished_export,
    read_json,
    remove_progress,
    resume_request,
    shard_file,
    write_json,
)
from headrace.batch.export.reading import FailedRecord, MeasuredQuality, SampleReader, measured_frames
from headrace.batch.export.request import ExportRequest, ShardFill, Split, shard_name, validate_request
from headrace.batch.export.sample import Sample
from headrace.batch.export.target import ExportTarget, open_target
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.exports import ExportRun, ExportRuns, Exports
from headrace.store.catalog.labels import Labels


class OnShard(Protocol):
    """What is done with each complete shard."""

    async def __call__(self, split: str, shard: Shard, *, is_new: bool) -> None:
        """Take a shard of a split, and whether this run has written it."""


_CHUNK_BYTES = 1024 * 1024  # one write per small sample would cost more than its bytes


async def export(
    settings: Settings, request: ExportRequest, to: str, *, until_us: int | None, progress: Callable[[Shard], None]
) -> ExportResult:
    """Write an export to a target; without `until_us` it reaches until now, or as far as the run that it resumes.

    Raises:
        HeadraceError: the request is inconsistent, the target holds another export, the version of labels does not
            exist, or a service is unreachable.
    """
    validate_request(request)
    writer = writer_for(request.format)
    dsn = settings.postgres_dsn.get_secret_value()
    with open_target(to, settings) as target:
        if request.wanted.labelled is not None:
            async with Labels.open(dsn) as labels:
                await labels.version(request.wanted.labelled)
        async with Exports.open(dsn) as exports:
            settled_us = await exports.settled_until_us()
            if until_us is not None and until_us > settled_us:
                raise HeadraceError(
                    "option_invalid",
                    "--until is in the future, so further records would belong to the export",
                    hint="give a time in the past",
                    exit_code=Exit.USAGE,
                )
            wanted = replace(request.wanted, until_us=until_us or settled_us)
            given = replace(request, wanted=wanted)
            request = await resume_request(target, given, until_given=until_us is not None)
            shards = NotedShards(await exports.begin_run(_run_of(request, target)), progress)
            if (finished := await finished_export(target)) is not None:
                await shards.note_all(finished)
                return finished
            quality = await _read_quality(settings, request) if request.quality else None
            blobs = Blobs.from_settings(settings)
            samples = SampleReader(exports, blobs, request, has_media=writer.has_media, quality=quality)
            result = await ExportWriter(samples, target, writer, request, on_shard=shards.note).run()
            await shards.end()
            return result


def _run_of(request: ExportRequest, target: ExportTarget) -> ExportRun:
    return ExportRun(
        place=target.place,
        format=request.format.value,
        wanted=request.wanted,
        validation_share=request.validation_share,
    )


class NotedShards:
    """Notes each complete shard in the catalog, and reports those that this run has written."""

    def __init__(self, runs: ExportRuns, progress: Callable[[Shard], None]) -> None:
        self._runs = runs
        self._progress = progress

    async def note(self, split: str, shard: Shard, *, is_new: bool) -> None:
        """Note one shard."""
        await self._runs.add_shard(shard.name, split, UUID(shard.first), UUID(shard.last))
        if is_new:
            self._progress(shard)

    async def note_all(self, finished: ExportResult) -> None:
        """Note the shards of an export that was complete before."""
        for split, shards in finished.splits.items():
            for shard in shards:
                await self.note(split, shard, is_new=False)
        await self.end()

    async def end(self) -> None:
        """Note that there are no further shards."""
        await self._runs.end()


async def _read_quality(settings: Settings, request: ExportRequest) -> dict[UUID, MeasuredQuality]:
    cancelled = threading.Event()
    try:
        return await asyncio.to_thread(
            measured_frames, settings, request.quality, until_us=request.wanted.until_us, cancelled=cancelled
        )
    finally:
        cancelled.set()  # an interrupted command does not wait for the rest of the topic


class ExportWriter:
    """One run of an export."""

    def __init__(
        self,
        samples: SampleReader,
        target: ExportTarget,
        writer: FormatWriter,
        request: ExportRequest,
        *,
        on_shard: OnShard,
    ) -> None:
        """`on_shard` is called once for each shard that is complete."""
        self._samples = samples
        self._target = target
        self._writer = writer
        self._request = request
        self._on_shard = on_shard

    async def run(self) -> ExportResult:
        """Write the missing shards, then the manifest; an interrupted run resumes when it is repeated.

        Raises:
            HeadraceError: the catalog, the store or the target is unreachable.
        """
        result = ExportResult(self._request.wanted.until_us)
        names = frozenset(await self._target.names())
        for split in Split:
            shards = [shard async for shard in self._finished_shards(split, names)]
            for shard in shards:
                await self._on_shard(split.value, shard, is_new=False)
                result.failed |= {failure["record_id"]: failure["code"] for failure in shard.failed}
            result.splits[split.value] = shards
            await self._write_split(split, result)
        await write_json(self._target, MANIFEST, result.as_manifest(self._request))
        await remove_progress(self._target)
        return result

    async def _finished_shards(self, split: Split, names: frozenset[str]) -> AsyncIterator[Shard]:
        """Yield the shards that earlier runs have finished."""
        number = 0
        while (name := shard_name(split, number, self._writer.suffix)) in names and shard_file(name) in names:
            fields = await read_json(self._target, shard_file(name))
            if not fields:
                return  # another run of the same export has finished meanwhile and removed it
            yield Shard(**(fields | {"failed": tuple(fields["failed"])}))
            number += 1

    async def _write_split(self, split: Split, result: ExportResult) -> None:
        shards = result.splits[split.value]
        after = UUID(shards[-1].last) if shards else None
        async with aclosing(self._samples.of(split, after=after)) as outcomes:
            samples = PeekableSamples(outcomes)
            while await samples.peek() is not None:
                name = shard_name(split, len(shards), self._writer.suffix)
                shard = await self._write_shard(name, samples)
                await write_json(self._target, shard_file(name), asdict(shard))
                shards.append(shard)
                result.written += 1
                await self._on_shard(split.value, shard, is_new=True)
            result.failed |= {str(failure.record_id): failure.code for failure in samples.failed}

    async def _write_shard(self, name: str, samples: "PeekableSamples") -> Shard:
        ids: list[UUID] = []
        chunks = _HashedChunks(self._writer.chunks(self._take_until_full(samples, ids)))
        failed_before = len(samples.failed)
        try:
            await self._target.write(name, chunks.joined())
        except Exception:
            # The store's client may wrap an error of the chunks in one of its own.
            if chunks.error is not None:
                raise chunks.error from None
            raise
        failed = tuple(
            {"record_id": str(failure.record_id), "code": failure.code} for failure in samples.failed[failed_before:]
        )
        digest = chunks.sha256.hexdigest()
        return Shard(name, digest, chunks.size_bytes, len(ids), str(ids[0]), str(ids[-1]), failed)

    async def _take_until_full(self, samples: "PeekableSamples", ids: list[UUID]) -> AsyncIterator[Sample]:
        fill = ShardFill(self._request.shard_bytes_max, self._request.shard_samples_max)
        while (sample := await samples.peek()) is not None and fill.fits(size := self._writer.size_of(sample)):
            fill.add(size)
            ids.append(sample.record_id)
            samples.advance()
            yield sample


class PeekableSamples:
    """Samples whose next one can be inspected before it is taken; failed records are collected apart."""

    def __init__(self, outcomes: AsyncGenerator[Sample | FailedRecord]) -> None:
        self.failed: list[FailedRecord] = []
        self._outcomes = outcomes
        self._next: Sample | None = None

    async def peek(self) -> Sample | None:
        """Return the next sample; None after the last."""
        while self._next is None:
            try:
                outcome = await anext(self._outcomes)
            except StopAsyncIteration:
                return None
            if isinstance(outcome, FailedRecord):
                self.failed.append(outcome)
            else:
                self._next = outcome
        return self._next

    def advance(self) -> None:
        """Go to the sample after the next."""
        self._next = None


class _HashedChunks:
    """Joins small chunks, and counts and hashes all of them."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0
        self.error: Exception | None = None
        self._chunks = chunks

    async def joined(self) -> AsyncIterator[bytes]:
        pending: list[bytes] = []
        size = 0
        try:
            async for chunk in self._chunks:
                if pending and len(chunk) >= _CHUNK_BYTES:
                    yield self._join(pending)  # which avoids copying the large chunk
                    pending, size = [], 0
                pending.append(chunk)
                size += len(chunk)
                if size >= _CHUNK_BYTES:
                    yield self._join(pending)
                    pending, size = [], 0
        except Exception as error:
            self.error = error
            raise
        if size:
            yield self._join(pending)

    def _join(self, parts: list[bytes]) -> bytes:
        data = b"".join(parts)
        self.sha256.update(data)
        self.size_bytes += len(data)
        return data
