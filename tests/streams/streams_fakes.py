"""The agents' ports in memory. They refuse what the real ones would refuse, and write down what happened in order.

`test_ports.py` holds them to the same facts as the real store and the real catalog.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from headrace.schemas.catalog_rows import (
    BlobLocation,
    BlobRow,
    CommitResult,
    DeadLetterRow,
    KnownDigests,
    Original,
    RecordRow,
    RowBatch,
    SightingKey,
    SightingRow,
    Tombstone,
)
from headrace.schemas.digest import blob_key, pack_key, sha256_hex
from headrace.schemas.media_probe import MediaProbe
from headrace.store.blobs.staging import STAGING_PREFIX, StagedBody
from headrace.store.errors import (
    BlobsCollectedError,
    CatalogUnavailableError,
    ClaimMismatchError,
    ClaimMissingError,
    StoreUnavailableError,
)
from headrace.streams.core.delivery import ConsumedMessage

WHERE = "memory"
STORE_AWAY = StoreUnavailableError("PUT failed: no connection", where=WHERE)
CATALOG_AWAY = CatalogUnavailableError("connection refused", where=WHERE)


@dataclass
class Journal:
    """What happened, in order, as (what, to which) pairs; and what is to go wrong."""

    entries: list[tuple[str, Any]] = field(default_factory=list)
    faults: dict[str, list[BaseException]] = field(default_factory=dict)
    before: Callable[[str, Any], Awaitable[None]] | None = None

    async def step(self, what: str, to: Any) -> None:
        """Give way, as a real call would; then fail if that is due, and otherwise write it down."""
        await asyncio.sleep(0)
        if self.before is not None:
            await self.before(what, to)
        if due := self.faults.get(what):
            raise due.pop(0)
        self.entries.append((what, to))

    def of(self, *whats: str) -> list[Any]:
        return [to for what, to in self.entries if what in whats]

    def kinds(self) -> list[str]:
        """What happened, runs of the same thing shown once."""
        names = [what for what, _ in self.entries]
        return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]


class FakeBlobs:
    """Objects under their content address and nowhere else."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.objects: dict[str, bytes] = {}
        self.under_way = 0
        self.under_way_max = 0

    async def put(self, key: str, data: bytes, *, media_type: str | None = None) -> bool:
        assert key in {blob_key(sha256_hex(data)), pack_key(sha256_hex(data))}, "not the address of these bytes"
        assert media_type
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            await self.journal.step("put", key)
        finally:
            self.under_way -= 1
        created = key not in self.objects
        self.objects[key] = data
        return created


class FakeClaims:
    """Staged bodies, promoted into the fake blobs."""

    def __init__(self, blobs: FakeBlobs) -> None:
        self._blobs = blobs
        self.staged: dict[str, bytes] = {}

    async def promote(self, staged: StagedBody, *, moved: Callable[[], None]) -> MediaProbe:
        moved()
        name = staged.claim
        await self._blobs.journal.step("promote", name)
        key = blob_key(staged.sha256_hex)
        body = self.staged.get(name) if name.startswith(STAGING_PREFIX) else None
        if body is None:
            raise ClaimMissingError(name, where=WHERE)
        if len(body) != staged.size_bytes:
            raise ClaimMismatchError(name, f"{len(body)} bytes instead of {staged.size_bytes}", where=WHERE)
        if sha256_hex(body) != staged.sha256_hex:
            raise ClaimMismatchError(name, f"its SHA-256 is {sha256_hex(body)}", where=WHERE)
        self._blobs.objects[key] = body
        probe = MediaProbe()
        probe.feed(body)
        return probe

    async def discard(self, claim: str) -> None:
        await self._blobs.journal.step("discard", claim)
        if claim.startswith(STAGING_PREFIX):
            self.staged.pop(claim, None)


def located(blobs: Mapping[bytes, BlobRow], digests: Sequence[bytes]) -> dict[bytes, BlobLocation]:
    """Return where those of the digests are that have a row."""
    rows = [blobs[digest] for digest in digests if digest in blobs]
    return {
        row.digest: BlobLocation(row.digest, row.size_bytes, row.media_type, row.store_key, row.store_offset)
        for row in rows
    }


class FakeCatalog:
    """Rows with the unique keys of the real one, which also insists that every blob's bytes are where its row says."""

    def __init__(self, journal: Journal, blobs: FakeBlobs | None) -> None:
        self._journal = journal
        self._blobs = blobs
        self.blobs: dict[bytes, BlobRow] = {}
        self.records: dict[UUID, RecordRow] = {}
        self.sightings: dict[tuple[Any, ...], SightingRow] = {}
        self.dead_letters: dict[UUID, DeadLetterRow] = {}
        self.announced: list[UUID] = []
        self.redrives: dict[tuple[UUID, int], Original] = {}
        self.erased: list[Tombstone] = []
        self.epoch = 0
        self.collected = 0  # commits that are still to find their objects gone
        self.lost_answers = 0

    async def collection_epoch(self) -> int:
        return self.epoch

    async def has_tombstones(self) -> bool:
        return bool(self.erased)

    async def originals(self, ids: Sequence[UUID]) -> dict[tuple[UUID, int], Original]:
        return {key: original for key, original in self.redrives.items() if key[0] in ids}

    async def look_up(self, digests: Sequence[bytes]) -> KnownDigests:
        assert all(len(digest) == 32 for digest in digests)
        await self._journal.step("known", len(digests))
        erased = [tombstone for tombstone in self.erased if tombstone.digest in digests]
        return KnownDigests(located(self.blobs, digests), erased)

    async def has_sighting(self, key: SightingKey) -> bool:
        return any(SightingKey(row.record_id, row.site, row.source_id) == key for row in self.sightings.values())

    async def commit(self, batch: RowBatch) -> CommitResult:
        rows = {row.digest: row for row in batch.blobs}
        for blob in rows.values():
            self._check_bytes(blob)
        missing = {row.digest.hex() for row in batch.records} - {key.hex() for key in rows.keys() | self.blobs.keys()}
        assert not missing, "a record without a blob"
        await self._journal.step("commit", [row.offset for row in batch.sightings])
        if batch.blobs and batch.collection_epoch not in {None, self.epoch}:
            raise BlobsCollectedError(0, where=WHERE)
        if self.collected:
            self.collected -= 1
            raise BlobsCollectedError(1, where=WHERE)
        committed = self._write(batch)
        if self.lost_answers:
            self.lost_answers -= 1
            raise CATALOG_AWAY
        return committed

    def _write(self, batch: RowBatch) -> CommitResult:
        for blob in batch.blobs:
            self.blobs.setdefault(blob.digest, blob)
        new = []
        for record in batch.records:
            if record.record_id not in self.records:
                self.records[record.record_id] = record
                new.append(record.record_id)
        self.announced += new
        sightings, letters = len(self.sightings), len(self.dead_letters)
        for row in batch.sightings:
            self.sightings.setdefault((row.topic, row.partition, row.offset, row.index, row.record_id), row)
        for letter in batch.dead_letters:
            self.dead_letters.setdefault(letter.dead_letter_id, letter)
        return CommitResult(
            new_records=frozenset(new),
            new_sightings=len(self.sightings) - sightings,
            duplicates=len(batch.records) - len(new),
            new_dead_letters=len(self.dead_letters) - letters,
        )

    def _check_bytes(self, blob: BlobRow) -> None:
        if self._blobs is None:
            return
        held = self._blobs.objects[blob.store_key]
        start = blob.store_offset or 0
        end = len(held) if blob.store_offset is None else start + blob.size_bytes
        assert sha256_hex(held[start:end]) == blob.digest.hex(), "the bytes are not where the row says"
        assert end - start == blob.size_bytes


class FakeFetch:
    """A fetched batch; it notes each message as acknowledged once it is finished."""

    def __init__(self, messages: Sequence[ConsumedMessage], journal: Journal) -> None:
        self.messages = messages
        self._journal = journal
        self._unfinished = [message.offset for message in messages]

    def finish(self, next_offset: int) -> None:
        done = [offset for offset in self._unfinished if offset < next_offset]
        assert done, "finished twice"
        self._unfinished = self._unfinished[len(done) :]
        self._journal.entries += [("ack", offset) for offset in done]


class FakeProcess:
    """A process that can be ended: nothing of it runs on afterwards."""

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.why = ""
        self.ended = asyncio.Event()

    def halt(self, exit_code: int, why: str) -> None:
        assert self.exit_code is None, "a process ends once"
        self.exit_code, self.why = exit_code, why
        for task in asyncio.all_tasks():
            if task.get_name().endswith("-batch"):
                task.cancel()
        self.ended.set()
        raise asyncio.CancelledError
