"""`headrace topics rebuild`: a topic gets from the catalog what it lacks, and nothing twice."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import RowBatch
from headrace.schemas.codec import decode
from headrace.schemas.digest import event_id
from headrace.schemas.events import Ingested
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.outbox import Outbox
from headrace.store.catalog.sessions import try_leader_lock
from headrace.store.locks import REBUILD_LOCK
from headrace.streams.relay.rebuild import RebuildRequest, rebuild
from tests.commands import headrace
from tests.streams.relay.relay_samples import LDOS, AnnouncementReader, Running, rows, wait_until

pytestmark = pytest.mark.stack

REQUEST = RebuildRequest(topic=LDOS)


class CrashedError(Exception):
    """Stands for the end of a process: nothing after the point was done."""


def crash_at(point: str, nth: int) -> Callable[[str], None]:
    seen: list[str] = []

    def reached(passed: str) -> None:
        seen.append(passed)
        if passed == point and seen.count(point) == nth:
            raise CrashedError(point)

    return reached


async def lost(catalog: Catalog, outbox: Outbox, count: int, first: int = 0) -> list[UUID]:
    """Records whose announcements a topic had that is gone, so that only the catalog knows that they were made."""
    ids: list[UUID] = []
    # Several transactions: their times order them, and the offsets what is in one.
    for start in range(first, first + count, 7):
        batch, events = rows(min(7, first + count - start), first=start)
        await catalog.commit(batch)
        ids += events
    await outbox.mark_seen(LDOS, ids)
    return ids


def in_order(announced: AnnouncementReader) -> dict[bytes, list[int]]:
    by_source = defaultdict(list)
    for message in announced.messages:
        by_source[message.key()].append(decode(message.value(), Ingested).sequence)
    return by_source


async def test_a_lost_topic_gets_the_same_keys_ids_and_order(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
) -> None:
    ids = await lost(catalog, outbox, 100)
    counted = await rebuild(settings, REQUEST, dry_run=True)
    assert (counted.lacking, counted.published) == (100, 0)
    result = await rebuild(settings, REQUEST)
    assert (result.lacking, result.published, result.refused) == (100, 100, {})
    assert sorted(await announced.read(100)) == sorted(ids)
    assert all(sequences == sorted(sequences) for sequences in in_order(announced).values())
    for message in announced.messages:
        event = decode(message.value(), Ingested)
        assert message.key() == event.source_id.encode()
        assert dict(message.headers())["ce_id"].decode() == event.event_id
    again = await rebuild(settings, REQUEST)
    assert (again.present, again.lacking, again.published) == (100, 0, 0)
    assert len(await announced.read(100)) == 100


async def test_what_is_not_announced_yet_is_left_to_the_relay(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
) -> None:
    ids = await lost(catalog, outbox, 20)
    batch, waiting = rows(10, first=20)
    await catalog.commit(batch)
    assert (await rebuild(settings, REQUEST)).published == 20
    assert sorted(await announced.read(20)) == sorted(ids)
    async with Running(settings, outbox) as running:
        await running.idle()
        assert sorted(await announced.read(30)) == sorted(ids + waiting)
    assert all(sequences == sorted(sequences) for sequences in in_order(announced).values())


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("relay_before_send", marks=pytest.mark.slow),
        "relay_before_commit",
        pytest.param("relay_after_send", marks=pytest.mark.slow),
        pytest.param("relay_before_mark", marks=pytest.mark.slow),
    ],
)
async def test_one_that_is_ended_anywhere_goes_on_and_repeats_nothing(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader, point: str
) -> None:
    ids = await lost(catalog, outbox, 50)
    few = settings.model_copy(update={"relay_rows_max": 8})
    for nth in (1, 3):
        with pytest.raises(CrashedError):
            await rebuild(few, REQUEST, reached=crash_at(point, nth))
    # A relay that begins in between learns what is out, and announces what is new.
    batch, new = rows(5, first=50)
    await catalog.commit(batch)
    async with Running(settings, outbox) as running:
        await running.idle()
    await rebuild(few, REQUEST)
    events = await announced.read(55)
    assert len(events) == 55
    assert sorted(events) == sorted(ids + new)


async def test_a_running_relay_gives_up_its_lead_and_goes_on_afterwards(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
) -> None:
    async with Running(settings, outbox) as running:
        await running.idle()
        ids = await lost(catalog, outbox, 0)
        before, first = rows(30)
        await catalog.commit(before)
        await wait_until(lambda: running.relay.announced == 30)
        result = await rebuild(settings, REQUEST)
        assert result.published == 0
        after, second = rows(30, first=30)
        await catalog.commit(after)
        assert sorted(await announced.read(60)) == sorted(ids + first + second)
    assert all(sequences == sorted(sequences) for sequences in in_order(announced).values())


async def test_each_further_sites_announcement_comes_back_too(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
) -> None:
    batch, first = rows(3)
    await catalog.commit(batch)
    await catalog.commit(elsewhere(batch))
    further = [event_id(record.record_id, "there") for record in batch.records]
    await outbox.mark_seen(LDOS, first + further)
    assert (await rebuild(settings, REQUEST)).published == 6
    assert sorted(await announced.read(6)) == sorted(first + further)
    said = [decode(message.value(), Ingested) for message in announced.messages]
    assert {(event.site, UUID(event.event_id) in further) for event in said} == {("here", False), ("there", True)}


def elsewhere(batch: RowBatch) -> RowBatch:
    return RowBatch(
        blobs=[],
        records=[replace(record, site="there") for record in batch.records],
        sightings=[replace(sighting, site="there", offset=sighting.offset + 1000) for sighting in batch.sightings],
        dead_letters=[],
    )


async def test_one_at_a_time(settings: Settings, postgres_dsn: str) -> None:
    lock = await try_leader_lock(postgres_dsn, REBUILD_LOCK)
    assert lock is not None
    with pytest.raises(HeadraceError, match="rebuild_running"):
        await rebuild(settings, REQUEST)
    await lock.release()


async def test_only_topics_of_announcements_are_rebuilt(settings: Settings) -> None:
    with pytest.raises(HeadraceError, match="topic_unknown"):
        await rebuild(settings, RebuildRequest(topic="edge.frames.v1"))


async def test_the_command_counts_first_and_publishes_with_a_yes(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
) -> None:
    ids = await lost(catalog, outbox, 10)
    refused = await asyncio.to_thread(headrace, settings, "topics", "rebuild", LDOS, code=Exit.USAGE)
    assert "10 would be published" in refused.err
    assert "confirm it by --yes" in refused.err
    counted = await asyncio.to_thread(headrace, settings, "topics", "rebuild", LDOS, "--dry-run", "--json")
    assert (counted.json["lacking"], counted.json["published"]) == (10, 0)
    later = ("topics", "rebuild", LDOS, "--from", "2100-01-01", "--dry-run", "--json")
    assert (await asyncio.to_thread(headrace, settings, *later)).json["lacking"] == 0
    done = await asyncio.to_thread(headrace, settings, "topics", "rebuild", LDOS, "--yes", "--json")
    assert done.json["published"] == 10
    assert sorted(await announced.read(10)) == sorted(ids)
