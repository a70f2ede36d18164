"""An export from its beginning, or from where the last run of it stopped.

In the target `_request.json` comes first: what was asked for, and until when it reaches; so the next run, whenever it
is, writes on at the same export. Beside each shard that is whole stands a small `_shard-….json` with its digest and its
last record. `_manifest.json` comes last and holds all of them, and then the small ones are removed. Readers of a
directory of Parquet files pass over names that begin with `_`.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from uuid import UUID

import orjson

from headrace.batch.export.formats import FormatWriter
from headrace.batch.export.plan import Filled, Split, shard_name
from headrace.batch.export.reading import Failed, Samples
from headrace.batch.export.request import ExportRequest
from headrace.batch.export.sample import Sample
from headrace.batch.export.target import ExportTarget
from headrace.runtime.errors import Exit, HeadraceError
from headrace.store.blobs.blob_store import once

REQUEST = "_request.json"
MANIFEST = "_manifest.json"
_NOTE = "_shard-"
_CHUNK_BYTES = 1024 * 1024  # a chunk for each sample would cost a small one more than its bytes


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard that is whole; `first` and `last` are ids of records, `failed` those that lie between its samples."""

    name: str
    sha256: str
    size_bytes: int
    samples: int
    first: str
    last: str
    failed: tuple[dict[str, str], ...] = ()


@dataclass
class ExportResult:
    """What an export wrote, in this run and in those before it, and which records it could not."""

    until_us: int
    splits: dict[str, list[Shard]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    written: int = 0  # shards, in this run

    @property
    def samples(self) -> int:
        """How many samples there are in all."""
        return sum(shard.samples for shards in self.splits.values() for shard in shards)


async def asked_before(target: ExportTarget, request: ExportRequest, *, until_given: bool) -> ExportRequest:
    """Return the request with the time until which it reaches: that of the run before, where there was one.

    An export of nothing is forgotten: most often a name was mistyped.

    Raises:
        HeadraceError: the target holds another export.
    """
    if _holds_nothing(await _json(target, MANIFEST)):
        await _tidy(target)
        await target.remove(MANIFEST)
    there = await _asked(target)
    if there is None:
        if any(name.startswith(tuple(f"{split}-" for split in Split)) for name in await target.names()):
            raise _differs(target, "the target holds shards of something else")
        if await target.create(REQUEST, _as_file(request.as_json())):
            return request
        # In a store another run may have begun meanwhile; both go on, and write the same bytes.
        there = await _asked(target) or {}
    until_us = _until_us(there)
    if until_us is None:
        raise _differs(target, "the target holds something else")
    same = replace(request, wanted=replace(request.wanted, until_us=until_us))
    if _as_read(same) != there or (until_given and request.wanted.until_us != until_us):
        raise _differs(target, "the target holds another export")
    return same


async def finished(target: ExportTarget) -> ExportResult | None:
    """Return the result of an export that is complete; else None."""
    manifest = await _json(target, MANIFEST)
    if not manifest:
        return None
    await _tidy(target)
    splits = {name: [Shard(**shard) for shard in said["shards"]] for name, said in manifest["splits"].items()}
    failed = {one["record_id"]: one["code"] for one in manifest["failed"]}
    return ExportResult(manifest["request"]["selection"]["until_us"], splits, failed)


class Export:
    """One run."""

    def __init__(
        self,
        samples: Samples,
        target: ExportTarget,
        form: FormatWriter,
        request: ExportRequest,
        *,
        progress: Callable[[Shard], None],
    ) -> None:
        self._samples = samples
        self._target = target
        self._form = form
        self._request = request
        self._progress = progress

    async def run(self) -> ExportResult:
        """Write the shards that are missing, then the manifest. May be repeated, and goes on where it was interrupted.

        Raises:
            HeadraceError: the catalog, the store or the target is away.
        """
        result = ExportResult(self._request.wanted.until_us)
        names = frozenset(await self._target.names())
        for split in Split:
            shards = [shard async for shard in self._whole(split, names)]
            for shard in shards:
                result.failed |= {one["record_id"]: one["code"] for one in shard.failed}
            result.splits[split.value] = shards
            await self._write(split, result)
        await _write_json(self._target, MANIFEST, _manifest(self._request, result))
        await _tidy(self._target)
        return result

    async def _whole(self, split: Split, names: frozenset[str]) -> AsyncIterator[Shard]:
        """Yield the shards that runs before this one finished."""
        number = 0
        while (name := shard_name(split, number, self._form.suffix)) in names and _note(name) in names:
            said = await _json(self._target, _note(name))
            if not said:
                return  # another run of the same export has ended meanwhile, and tidied up
            yield Shard(**(said | {"failed": tuple(said["failed"])}))
            number += 1

    async def _write(self, split: Split, result: ExportResult) -> None:
        shards = result.splits[split.value]
        after = UUID(shards[-1].last) if shards else None
        async with aclosing(self._samples.of(split, after=after)) as outcomes:
            ahead = Ahead(outcomes)
            while await ahead.peek() is not None:
                name = shard_name(split, len(shards), self._form.suffix)
                shard = await self._write_shard(name, ahead)
                await _write_json(self._target, _note(name), asdict(shard))
                shards.append(shard)
                result.written += 1
                self._progress(shard)
            result.failed |= {str(one.record_id): one.code for one in ahead.failed}

    async def _write_shard(self, name: str, ahead: "Ahead") -> Shard:
        ids: list[UUID] = []
        written = _Written(self._form.chunks(self._fill(ahead, ids)))
        known = len(ahead.failed)
        try:
            await self._target.write(name, written.chunks())
        except Exception:
            # What reads the chunks may name an error of ours as one of its own.
            if written.error is not None:
                raise written.error from None
            raise
        failed = tuple({"record_id": str(one.record_id), "code": one.code} for one in ahead.failed[known:])
        return Shard(name, written.sha256.hexdigest(), written.size_bytes, len(ids), str(ids[0]), str(ids[-1]), failed)

    async def _fill(self, ahead: "Ahead", ids: list[UUID]) -> AsyncIterator[Sample]:
        filled = Filled(self._request.shard_bytes_max, self._request.shard_samples_max)
        while (sample := await ahead.peek()) is not None and filled.has_room(size := self._form.size_of(sample)):
            filled.add(size)
            ids.append(sample.record_id)
            ahead.take()
            yield sample


class Ahead:
    """Samples, the next of which can be looked at before it is taken; what failed is put aside."""

    def __init__(self, outcomes: AsyncGenerator[Sample | Failed]) -> None:
        self.failed: list[Failed] = []
        self._outcomes = outcomes
        self._next: Sample | None = None

    async def peek(self) -> Sample | None:
        """Return the next sample; None after the last."""
        while self._next is None:
            try:
                outcome = await anext(self._outcomes)
            except StopAsyncIteration:
                return None
            if isinstance(outcome, Failed):
                self.failed.append(outcome)
            else:
                self._next = outcome
        return self._next

    def take(self) -> None:
        """Go on to the one after it."""
        self._next = None


class _Written:
    """Chunks on their way, put together, counted and hashed."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0
        self.error: Exception | None = None
        self._chunks = chunks

    async def chunks(self) -> AsyncIterator[bytes]:
        waiting: list[bytes] = []
        size = 0
        try:
            async for chunk in self._chunks:
                if waiting and len(chunk) >= _CHUNK_BYTES:
                    yield self._joined(waiting)  # so that a large body is not copied
                    waiting, size = [], 0
                waiting.append(chunk)
                size += len(chunk)
                if size >= _CHUNK_BYTES:
                    yield self._joined(waiting)
                    waiting, size = [], 0
        except Exception as error:
            self.error = error
            raise
        if size:
            yield self._joined(waiting)

    def _joined(self, parts: list[bytes]) -> bytes:
        data = b"".join(parts)
        self.sha256.update(data)
        self.size_bytes += len(data)
        return data


def _manifest(request: ExportRequest, result: ExportResult) -> dict[str, Any]:
    return {
        "request": request.as_json(),
        "samples": result.samples,
        "splits": {
            name: {
                "samples": sum(shard.samples for shard in shards),
                "size_bytes": sum(shard.size_bytes for shard in shards),
                "shards": [{key: value for key, value in asdict(shard).items() if key != "failed"} for shard in shards],
            }
            for name, shards in result.splits.items()
        },
        "failed": [{"record_id": record, "code": code} for record, code in sorted(result.failed.items())],
    }


async def _tidy(target: ExportTarget) -> None:
    for name in await target.names():
        if name == REQUEST or name.startswith(_NOTE):
            await target.remove(name)


def _differs(target: ExportTarget, what: str) -> HeadraceError:
    return HeadraceError(
        "export_differs",
        what,
        where=target.where,
        hint="repeat the command as it was, or choose another directory or prefix",
        exit_code=Exit.USAGE,
    )


def _note(shard: str) -> str:
    return f"{_NOTE}{shard}.json"


async def _asked(target: ExportTarget) -> dict[str, Any] | None:
    """Return what a run before was asked for; None where there was none."""
    asked = await _json(target, REQUEST)
    if asked is not None:
        return asked
    manifest = await _json(target, MANIFEST)
    return None if manifest is None else manifest.get("request", {})


def _holds_nothing(manifest: Mapping[str, Any] | None) -> bool:
    return manifest is not None and manifest.get("samples") == 0 and manifest.get("failed") == []


def _until_us(request: Any) -> int | None:
    """Return until when a run before reached; None of what is no request of ours."""
    selection = request.get("selection") if isinstance(request, dict) else None
    until_us = selection.get("until_us") if isinstance(selection, dict) else None
    return until_us if isinstance(until_us, int) else None


def _as_read(request: ExportRequest) -> Any:
    return orjson.loads(orjson.dumps(request.as_json()))


def _as_file(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"


async def _json(target: ExportTarget, name: str) -> dict[str, Any] | None:
    """Return an object of ours; an empty one where it is something else."""
    data = await target.read(name)
    if data is None:
        return None
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


async def _write_json(target: ExportTarget, name: str, value: Mapping[str, Any]) -> None:
    await target.write(name, once(_as_file(value)))
