"""Blob store, catalog and outbox, each effect whole or not at all, and sometimes without an answer.

The rows are written by the fake catalog that `tests/streams/test_ports.py` holds to the facts of the real one.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from uuid import UUID

from headrace.schemas.catalog_rows import CommitResult, KnownDigests, RowBatch
from headrace.schemas.digest import blob_key, event_id, pack_key, sha256_hex
from headrace.schemas.events import DeadLetter, Ingested
from headrace.schemas.media_probe import MediaProbe
from headrace.schemas.topics import DEAD_LETTERS, ingested_topic
from headrace.store.blobs.staging import StagedBody
from headrace.store.catalog.outbox import Pending
from headrace.store.errors import CatalogUnavailableError, ClaimMismatchError, ClaimMissingError, StoreUnavailableError
from tests.simulation.simulation_faults import SimulationStep, Weather
from tests.simulation.simulation_input import SimulationGroup, Topics
from tests.simulation.simulation_loop import Process, this_process
from tests.streams.streams_fakes import FakeBlobs, FakeCatalog, Journal, located
from tests.streams.streams_samples import NOW_US

STORE_AWAY = StoreUnavailableError("no connection", where="simulated store")
CATALOG_AWAY = CatalogUnavailableError("no connection", where="simulated catalog")
LEAD_NOTICED_S = 3.0  # until the server, or the relay, notices that the session of a leader_lock is gone


class SimulatedBlobs(FakeBlobs):
    """Objects, put under their content address."""

    def __init__(self, weather: Weather, topics: Topics) -> None:
        super().__init__(Journal())
        self._weather = weather
        self.staged = dict(topics.staged)

    async def put(self, key: str, data: bytes, *, media_type: str | None = None) -> bool:
        assert key in {blob_key(sha256_hex(data)), pack_key(sha256_hex(data))}, "not the address of these bytes"
        return await self._weather.step(
            SimulationStep.PUT, lambda: self.objects.setdefault(key, data) is data, away=STORE_AWAY, about=key[-8:]
        )

    async def promote(self, staged: StagedBody, *, moved: Callable[[], None]) -> MediaProbe:
        probe = await self._weather.step(SimulationStep.PROMOTE, lambda: self._promoted(staged), away=STORE_AWAY)
        moved()
        return probe

    async def discard(self, claim: str) -> None:
        await self._weather.step(
            SimulationStep.DISCARD, lambda: self.staged.pop(claim, None), away=STORE_AWAY, about=claim[-8:]
        )

    def _promoted(self, staged: StagedBody) -> MediaProbe:
        key = blob_key(staged.sha256_hex)
        body = self.staged.get(staged.claim)
        if body is None:
            raise ClaimMissingError(staged.claim, where="simulated store")
        if sha256_hex(body) != staged.sha256_hex:
            raise ClaimMismatchError(staged.claim, "another digest", where="simulated store")
        self.objects[key] = body
        probe = MediaProbe()
        probe.feed(body)
        return probe


@dataclass
class OutboxRow:
    """A row of the outbox."""

    pending: Pending
    published: bool = False


class SimulatedCatalog(FakeCatalog):
    """Rows and the outbox. Ids are taken when a transaction begins, so they become visible in another order."""

    def __init__(self, weather: Weather, blobs: SimulatedBlobs, group: SimulationGroup) -> None:
        super().__init__(Journal(), blobs)
        self._weather = weather
        self._group = group
        self._next_id = 1
        self.outbox: dict[int, OutboxRow] = {}
        self.known_checkpoints: dict[tuple[str, int], int] = {}
        self.ears: list[asyncio.Event] = []
        # Only mutants use these.
        self.weather = weather
        self.claimed: set[UUID] = set()
        self.said: set[UUID] = set()
        self.say: Callable[[str, UUID], None] = lambda _topic, _event: None

    async def look_up(self, digests: Sequence[bytes]) -> KnownDigests:
        def look() -> KnownDigests:
            return KnownDigests(located(self.blobs, digests))

        return await self._weather.step(SimulationStep.KNOWN, look, away=CATALOG_AWAY)

    async def commit(self, batch: RowBatch) -> CommitResult:
        first_id = self._next_id
        self._next_id += len(batch.records) + len(batch.dead_letters)
        about = [
            (row.topic.split(".")[1], row.partition, row.offset) for row in (*batch.sightings, *batch.dead_letters)
        ]
        return await self._weather.step(
            SimulationStep.COMMIT, lambda: self._apply(batch, first_id), away=CATALOG_AWAY, about=about
        )

    def _apply(self, batch: RowBatch, first_id: int) -> CommitResult:
        for blob in batch.blobs:
            self._check_bytes(blob)
        letters_before, seen_before = set(self.dead_letters), set(self.sightings)
        committed = self._write(batch)
        new: list[tuple[UUID, str, Any]] = [
            (row.record_id, ingested_topic(row.kind).name, self._ingested(row.record_id))
            for row in {row.record_id: row for row in batch.records}.values()
            if row.record_id in committed.new_records
        ]
        new += [(key, DEAD_LETTERS.name, self._letter(key)) for key in self.dead_letters if key not in letters_before]
        for outbox_id, (key, topic, event) in enumerate(new, first_id):
            row = Pending(outbox_id, event_id(key), topic, event, None)
            self.outbox[outbox_id] = OutboxRow(row, published=row.event_id in self.said)
        self._see({key[:3] for key in self.sightings if key not in seen_before})
        self._group.done |= {(row.topic, row.partition, row.offset) for row in (*batch.sightings, *batch.dead_letters)}
        for ear in self.ears:
            ear.set()
        return committed

    def _see(self, new: Iterable[tuple[str, int, int]]) -> None:
        for topic, partition, offset in new:
            later = [place for place in self._group.done if place[:2] == (topic, partition) and place[2] > offset]
            self._weather.hold("I11", f"{topic} {partition} {offset} was seen after {later}", holds=not later)

    def _ingested(self, record: UUID) -> Ingested:
        row = self.records[record]
        return Ingested(
            event_id=str(event_id(record)),
            record_id=str(record),
            kind=row.kind,
            digest=row.digest.hex(),
            source_id=row.source_id,
            site=row.site,
            captured_at_us=row.captured_at_us,
            sequence=row.sequence,
            ingested_at_us=NOW_US,
            media_type=row.media_type,
            size_bytes=row.size_bytes,
            store_key=self.blobs[row.digest].store_key,
            store_offset=self.blobs[row.digest].store_offset,
        )

    def _letter(self, key: UUID) -> DeadLetter:
        row = self.dead_letters[key]
        return DeadLetter(
            event_id=str(event_id(key)),
            code=row.code,
            reason=row.reason,
            topic=row.topic,
            partition=row.partition,
            offset=row.offset,
            timestamp_us=row.message_timestamp_us,
            key=row.key,
            value=row.value,
            headers=row.headers,
            rejected_at_us=NOW_US,
        )


class SimulatedOutbox:
    """The outbox as a relay sees it."""

    def __init__(self, weather: Weather, catalog: SimulatedCatalog) -> None:
        self._weather = weather
        self._catalog = catalog
        self._lead: SimulatedLeaderLock | None = None
        weather.on_pause.append(self._paused)

    async def pending(self, topic: str, limit: int, *, bytes_max: int) -> list[Pending]:
        assert bytes_max >= 1  # what the rows would weigh is not modelled

        def look() -> list[Pending]:
            rows = [row.pending for _, row in sorted(self._catalog.outbox.items()) if not row.published]
            return [row for row in rows if row.topic == topic][:limit]

        return await self._weather.step(SimulationStep.PENDING, look, away=CATALOG_AWAY)

    async def mark(self, ids: Sequence[int], checkpoints: Mapping[tuple[str, int], int] | None = None) -> int:
        def write() -> int:
            for outbox_id in ids:
                self._catalog.outbox[outbox_id].published = True
            self._catalog.known_checkpoints.update(checkpoints or {})
            return len(ids)

        return await self._weather.step(SimulationStep.MARK, write, away=CATALOG_AWAY, about=list(ids))

    async def unpublished(self) -> int:
        # Only a gauge asks for it: what goes wrong here must not take the place of a fault at a look that matters.
        return sum(not row.published for row in self._catalog.outbox.values())

    async def set_aside_rows(self) -> int:
        return 0

    async def mark_seen(self, topic: str, ids: Iterable[UUID]) -> int:
        wanted = set(ids)

        def write() -> int:
            rows = [
                row
                for row in self._catalog.outbox.values()
                if row.pending.topic == topic and row.pending.event_id in wanted
            ]
            for row in rows:
                row.published = True
            return len(rows)

        return await self._weather.step(SimulationStep.MARK_SEEN, write, away=CATALOG_AWAY, about=len(wanted))

    async def checkpoints(self) -> dict[tuple[str, int], int]:
        return await self._weather.step(
            SimulationStep.CHECKPOINTS, lambda: dict(self._catalog.known_checkpoints), away=CATALOG_AWAY
        )

    async def is_rebuilding(self) -> bool:
        return False

    async def wait_for_leader_lock(self) -> "SimulatedLeaderLock":
        while True:
            try:
                process = this_process()
                leader_lock = await self._weather.step(
                    SimulationStep.LEAD, partial(self._take, process), away=CATALOG_AWAY
                )
            except CatalogUnavailableError:
                leader_lock = None
            if leader_lock is not None:
                leader_lock.used = True
                return leader_lock
            await asyncio.sleep(1.0)

    def _take(self, process: Process) -> "SimulatedLeaderLock | None":
        """Let a session have the lock if it is free; the server frees it once it notices that the session ended."""
        if self._lead is not None:
            return None
        self._lead = leader_lock = SimulatedLeaderLock(self, process)
        # An answer that got lost, or a process that gave up waiting, leaves a session that nobody uses: it is cut.
        self._weather.loop.call_later(LEAD_NOTICED_S, lambda: None if leader_lock.used else self.free(leader_lock))
        process.on_death.append(lambda: self._weather.loop.call_later(LEAD_NOTICED_S, self.free, leader_lock))
        return leader_lock

    def free(self, leader_lock: "SimulatedLeaderLock") -> None:
        if self._lead is leader_lock:
            self._lead = None

    def listen(self) -> "SimulatedListener":
        return SimulatedListener(self._catalog)

    def _paused(self, process: Any) -> None:
        """PostgreSQL ends the session of a process that stands still; the process hears of it later."""
        leader_lock = self._lead
        if leader_lock is not None and leader_lock.process is process:
            self._lead = None
            self._weather.loop.call_later(LEAD_NOTICED_S, leader_lock.lost.set)


class SimulatedLeaderLock:
    """The right to publish."""

    def __init__(self, outbox: SimulatedOutbox, process: Process) -> None:
        self._outbox = outbox
        self.process = process
        self.used = False
        self.lost = asyncio.Event()

    async def release(self) -> None:
        self._outbox.free(self)


class SimulatedListener:
    """Hears of new rows."""

    def __init__(self, catalog: SimulatedCatalog) -> None:
        self._catalog = catalog
        self.notified = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._catalog.ears.append(self.notified)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._catalog.ears.remove(self.notified)
