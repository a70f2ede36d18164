"""`consume(…, since=…)`: what the catalog has, then the topic, with nothing missing and nothing twice in between."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from headrace import consume
from headrace.runtime.crash_points import CrashPoint
from headrace.runtime.settings import Settings
from headrace.schemas.events import Ingested
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.outbox import Outbox
from headrace.streams.consumers import Body, backfill
from headrace.streams.consumers.backfill import Note
from tests.processes import environment_of
from tests.streams.consumers.consumer_samples import new_name
from tests.streams.relay.relay_samples import LDOS, Running, rows
from tests.waiting import until_async

pytestmark = pytest.mark.stack

ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)
REPEATED = {CrashPoint.BACKFILL_BEFORE_SAVE, CrashPoint.BACKFILL_AFTER_SAVE}
QUICK = {CrashPoint.BACKFILL_AFTER_SAVE, CrashPoint.BACKFILL_AFTER_END}
POINTS = [
    pytest.param(point, marks=() if point in QUICK else pytest.mark.slow, id=point)
    for point in CrashPoint
    if point.startswith("backfill_")
]


class CrashedError(Exception):
    """Stands for the end of the process."""


class Member:
    """One process's worth of consuming LDOs; remembers the events of this catalog."""

    def __init__(self, settings: Settings, group: str, own: set[UUID], since: datetime | None = ALWAYS) -> None:
        self.stop = asyncio.Event()
        self.seen: list[Ingested] = []
        self._own = own
        few = settings.model_copy(update={"consumer_events_max": 8})
        self.task = asyncio.create_task(consume("ldo", group, self._take, settings=few, stop=self.stop, since=since))

    async def _take(self, event: Ingested, _body: Body) -> None:
        if UUID(event.event_id) in self._own:
            self.seen.append(event)

    async def until(self, count: int) -> None:
        def reached() -> bool:
            assert not self.task.done() or not self.task.exception(), self.task.exception()
            return len(self.seen) >= count

        await until_async(reached, 60, f"{count} events")
        await asyncio.sleep(0.3)  # for what would come twice

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 30)


class World:
    """A catalog whose announcements are partly on the topic, partly only known to have been, and partly to come."""

    def __init__(self, settings: Settings, catalog: Catalog, outbox: Outbox) -> None:
        self.settings = settings
        self.outbox = outbox
        self._catalog = catalog
        self._made = 0
        self.own: set[UUID] = set()

    async def record(self, count: int) -> list[UUID]:
        batch, ids = rows(count, first=self._made)
        self._made += count
        self.own |= set(ids)
        await self._catalog.commit(batch)
        return ids

    async def lost(self, count: int) -> None:
        """Announced once, and past the topic's retention."""
        await self.outbox.mark_seen(LDOS, await self.record(count))

    async def announced(self, count: int) -> None:
        await self.record(count)
        async with Running(self.settings, self.outbox) as running:
            await running.idle()
            assert await self.outbox.unpublished() == 0


@pytest.fixture
async def world(settings: Settings, catalog: Catalog, outbox: Outbox) -> World:
    return World(settings, catalog, outbox)


def in_order(seen: list[Ingested]) -> bool:
    by_source = defaultdict(list)
    for event in seen:
        by_source[event.source_id].append(event.sequence)
    return all(sequences == sorted(sequences) for sequences in by_source.values())


async def test_the_catalog_comes_first_and_the_topic_goes_on_exactly_there(world: World) -> None:
    await world.lost(20)
    await world.announced(30)
    waiting = await world.record(10)
    member = Member(world.settings, new_name("group"), world.own)
    await member.until(50)
    assert not {UUID(event.event_id) for event in member.seen} & set(waiting)
    async with Running(world.settings, world.outbox) as running:
        await running.idle()
        await world.record(10)
        await member.until(70)
    await member.end()
    assert Counter(UUID(event.event_id) for event in member.seen) == Counter(world.own)
    assert in_order(member.seen)


async def test_a_group_with_offsets_goes_on_where_it_is(world: World) -> None:
    await world.announced(10)
    group = new_name("group")
    first = Member(world.settings, group, world.own)
    await first.until(10)
    await first.end()
    await world.announced(10)
    second = Member(world.settings, group, world.own)
    await second.until(10)
    await second.end()
    assert {UUID(event.event_id) for event in first.seen}.isdisjoint(UUID(event.event_id) for event in second.seen)
    assert len(second.seen) == 10


async def test_only_what_was_ingested_since_then_comes(world: World) -> None:
    await world.announced(10)
    since = datetime.now(UTC)
    later = set(await world.record(10))
    async with Running(world.settings, world.outbox) as running:
        await running.idle()
    member = Member(world.settings, new_name("group"), world.own, since)
    await member.until(10)
    await member.end()
    assert {UUID(event.event_id) for event in member.seen} == later


async def test_two_members_begin_at_once_and_one_of_them_backfills(world: World) -> None:
    await world.announced(40)
    group = new_name("group")
    members = [Member(world.settings, group, world.own) for _ in range(2)]
    await until_async(lambda: sum(len(member.seen) for member in members) >= 40, 60, "40 events")
    await asyncio.sleep(0.5)
    for member in members:
        await member.end()
    seen = [event for member in members for event in member.seen]
    assert Counter(UUID(event.event_id) for event in seen) == Counter(world.own)


@pytest.mark.parametrize("point", POINTS)
async def test_one_that_is_ended_there_goes_on_and_misses_nothing(
    world: World, point: CrashPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.lost(15)
    await world.announced(15)
    await world.record(5)
    group = new_name("group")
    left = [2 if point in REPEATED else 1]

    def reached(passed: CrashPoint) -> None:
        left[0] -= passed is point
        if passed is point and left[0] == 0:
            raise CrashedError

    monkeypatch.setattr(backfill, "reached", reached)
    first = Member(world.settings, group, world.own)
    with pytest.raises(CrashedError):
        await asyncio.wait_for(first.task, 60)
    seen = first.seen
    monkeypatch.setattr(backfill, "reached", lambda _point: None)
    async with Running(world.settings, world.outbox) as running:
        await running.idle()
    last = Member(world.settings, group, world.own)
    await until_async(lambda: {UUID(event.event_id) for event in seen + last.seen} == world.own, 60, "everything")
    await asyncio.sleep(0.3)
    await last.end()
    counts = Counter(event.event_id for event in seen + last.seen)
    # What was handled and not noted yet is delivered again; at every other point nothing is.
    assert sum(counts.values()) - len(counts) <= (16 if point is CrashPoint.BACKFILL_BEFORE_SAVE else 0)


PROGRAM = """
import asyncio, os, sys
from datetime import UTC, datetime
from headrace import consume

out = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def handle(event, body):
    os.write(out, event.event_id.encode() + b"\\n")

asyncio.run(consume("ldo", sys.argv[1], handle, since=datetime(2000, 1, 1, tzinfo=UTC)))
"""


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
async def test_one_that_is_killed_again_and_again_around_the_seam_is_exact(
    world: World, kills: int, tmp_path: Path
) -> None:
    # So many that a life ends before the seam, at it, and behind it.
    await world.lost(5 * kills)
    await world.announced(5 * kills)
    group, out = new_name("group"), tmp_path / "seen"
    environment = os.environ | environment_of(world.settings) | {"HEADRACE_CONSUMER_EVENTS_MAX": "1"}
    environment["HEADRACE_KAFKA_SESSION_S"] = "6"  # a member that was killed is missed for so long
    timing = random.Random(kills)

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", PROGRAM, group, str(out)], env=environment)

    def lines() -> list[str]:
        return out.read_text().split() if out.exists() else []

    async with Running(world.settings, world.outbox):
        for _ in range(kills):
            process = start()
            before = len(lines())
            await world.record(5)
            try:
                await until_async(lambda before=before: len(lines()) > before, 60, "an event")
                await asyncio.sleep(timing.random() * 0.8)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        process = start()
        try:
            await until_async(lambda: world.own <= set(map(UUID, _whole(lines()))), 120, "everything")
            await asyncio.sleep(1)
        finally:
            process.kill()
            process.wait()
    counts = Counter(event for event in map(UUID, _whole(lines())) if event in world.own)
    assert set(counts) == world.own
    # One event is under way at a time: a kill repeats at most that one.
    assert sum(counts.values()) - len(counts) <= kills


def _whole(lines: list[str]) -> list[str]:
    return [line for line in lines if len(line) == 36]


def test_a_note_is_the_same_after_it_was_kept() -> None:
    note = Note(1, 2, 3, (4, "edge.frames.v1", 5, 6, 7, "id"))
    assert Note.of(note.as_text()) == note
    assert Note.of(Note(1, 2, 3).as_text()) == Note(1, 2, 3)
    for text in (None, "", "note of another tool", "{}", "[]", '{"backfill":99}'):
        assert Note.of(text) is None
