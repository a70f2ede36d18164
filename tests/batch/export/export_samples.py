"""A catalog and a store in memory, for exports; everything follows from a number."""

from collections.abc import AsyncGenerator
from copy import copy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from obstore.store import MemoryStore

from headrace.batch.export.formats import writer_for
from headrace.batch.export.manifest import ExportResult, Shard, resume_request
from headrace.batch.export.reading import MeasuredQuality, SampleReader
from headrace.batch.export.request import ExportFormat, ExportRequest
from headrace.batch.export.run import ExportWriter
from headrace.batch.export.target import DirectoryTarget, ExportTarget
from headrace.schemas.digest import blob_key, record_id
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.store_url import OpenedStore
from headrace.store.catalog.exports import ClipLocation, Exported, ExportSelection
from headrace.store.catalog.views import StoredRecord

CAPTURED_AT_US = 1_790_000_000_123_456
UNTIL_US = 1_800_000_000_000_000
CLIP = b"\x00\x00\x00\x18ftypmp42 a clip" * 40


def request(form: ExportFormat = ExportFormat.WEBDATASET, **changes: object) -> ExportRequest:
    given: dict[str, object] = {
        "format": form,
        "wanted": ExportSelection(until_us=UNTIL_US),
        "validation_share": 0.25,
        "shard_bytes_max": 1 << 20,
        "shard_samples_max": 20,
    }
    return ExportRequest(**(given | changes))  # type: ignore[arg-type]


def body_of(number: int, kind: Kind) -> bytes:
    if kind is Kind.LDO:
        label = ("good", "scratch")[number % 2]
        return b'{\n"ldo_id":"part-%d","prediction":{"label":"%b"},"sensor_data":{"x":0.1000000000000000000001}}' % (
            number,
            label.encode(),
        )
    if kind is Kind.CID:
        return b'{"code":"PART-%d"}' % number
    return b"\xff\xd8 picture %d " % number * (number % 7 + 1)


class ExportWorld:
    """Records and their bytes."""

    def __init__(self, numbers: int, kinds: tuple[Kind, ...] = tuple(Kind)) -> None:
        memory = MemoryStore()
        self.blobs = Blobs(OpenedStore("memory", memory, memory, memory))
        self.bodies: dict[UUID, bytes] = {}
        self.stale: dict[UUID, Exported] = {}  # what the catalog says once more of records that have moved
        self._exported: list[Exported] = []
        self._kinds = kinds
        self._numbers = numbers

    async def fill(self) -> "ExportWorld":
        clip_digest = await self._put(CLIP)
        clip = ClipLocation(clip_digest, len(CLIP), "video/mp4", blob_key(clip_digest), None)
        for number in range(self._numbers):
            kind = self._kinds[number % len(self._kinds)]
            body = body_of(number, kind)
            digest = await self._put(body)
            record = _record(number, kind, digest, len(body))
            self.bodies[record.record_id] = body
            has_clip = kind is Kind.LDO and number % 8 == 3
            self._exported.append(
                Exported(record, clip if has_clip else None, clip_sha256=clip_digest if has_clip else None)
            )
        self._exported.sort(key=lambda item: item.record.record_id)
        return self

    async def records(self, wanted: ExportSelection, *, after: UUID | None = None) -> AsyncGenerator[Exported]:
        for item in self._exported:
            chosen = wanted.kinds is None or item.record.kind in wanted.kinds
            if chosen and (after is None or item.record.record_id > after):
                yield self.stale.pop(item.record.record_id, item)

    async def lose(self, number: int) -> UUID:
        item = self._exported[number]
        assert item.record.store_key is not None
        await self.blobs.delete(item.record.store_key)
        return item.record.record_id

    async def damage(self, number: int) -> UUID:
        """Put other bytes of the same size in the place of a record's."""
        item = self._exported[number]
        assert item.record.store_key is not None
        await self.blobs.delete(item.record.store_key)
        await self.blobs.put(item.record.store_key, bytes(item.record.size_bytes))
        return item.record.record_id

    async def move(self, number: int) -> UUID:
        """Put a record's bytes elsewhere, of which those know nothing who have read the catalog before."""
        item = self._exported[number]
        digest = item.record.digest
        await self.blobs.put(f"elsewhere/{digest}", self.bodies[item.record.record_id])
        await self.lose(number)
        self._exported[number] = replace(item, record=replace(item.record, store_key=f"elsewhere/{digest}"))
        self.stale[item.record.record_id] = item
        return item.record.record_id

    def archive_clip(self) -> set[UUID]:
        """Say of the clip that it lies in the archive, and return the LDOs that name it."""
        result = set()
        for number, item in enumerate(self._exported):
            if item.clip is not None:
                self._exported[number] = replace(item, clip=replace(item.clip, archived_at_us=1))
                result.add(item.record.record_id)
        return result

    def without_clips(self) -> "ExportWorld":
        """Return the same records before their clips have come."""
        before = copy(self)
        before._exported = [replace(item, clip=None) for item in self._exported]
        return before

    async def _put(self, body: bytes) -> str:
        digest = sha256(body).hexdigest()
        await self.blobs.put(blob_key(digest), body)
        return digest


async def run(
    world: ExportWorld,
    target: ExportTarget,
    asked: ExportRequest,
    *,
    quality: dict[UUID, MeasuredQuality] | None = None,
) -> tuple[ExportResult, list[Shard]]:
    """Export, as the job does it, and return what it says of each shard on the way."""
    form = writer_for(asked.format)
    asked = await resume_request(target, asked, until_given=False)
    output: list[Shard] = []
    samples = SampleReader(world, world.blobs, asked, has_media=form.has_media, quality=quality)  # type: ignore[arg-type]

    async def on_shard(_split: str, shard: Shard, *, is_new: bool) -> None:
        if is_new:
            output.append(shard)

    return await ExportWriter(samples, target, form, asked, on_shard=on_shard).run(), output


def directory(path: Path) -> DirectoryTarget:
    path.mkdir(exist_ok=True)
    return DirectoryTarget(path)


def files(path: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in path.iterdir()}


def _record(number: int, kind: Kind, digest: str, size_bytes: int) -> StoredRecord:
    media_type = {Kind.FRAME: "image/jpeg", Kind.CLIP: "video/mp4"}.get(kind, "application/json")
    return StoredRecord(
        record_id=record_id(kind, digest),
        kind=kind.value,
        digest=digest,
        site="plant",
        source_id=f"cam-{number % 3}",
        captured_at_us=CAPTURED_AT_US + number,
        sequence=number,
        ingested_at_us=CAPTURED_AT_US + number + 1,
        media_type=media_type,
        size_bytes=size_bytes,
        store_key=blob_key(digest),
        store_offset=None,
        width=640 if kind is Kind.FRAME else None,
        height=480 if kind is Kind.FRAME else None,
        duration_us=5_000_000 if kind is Kind.CLIP else None,
        ldo_id=f"part-{number}" if kind is Kind.LDO else None,
        code=f"PART-{number}" if kind is Kind.CID else None,
        about=None,
        attributes='{"label": "smoke",\n"gain": 1e308}' if kind is Kind.FRAME else "{}",
        traceparent=None,
    )
