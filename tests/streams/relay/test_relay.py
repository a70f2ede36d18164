"""The relay against a real Kafka and a real PostgreSQL."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import asyncpg
import pytest

from headrace.runtime.errors import Exit
from headrace.runtime.metrics import relay_pending_rows
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode
from headrace.schemas.events import DeadLetter, Ingested
from headrace.schemas.headers import traceparent_of
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.outbox import PENDING_BYTES_MAX, Outbox, Pending
from headrace.streams.relay import loop
from headrace.streams.relay.announcement import OUTPUT_TOPICS, Announcement
from headrace.streams.relay.outbox_publisher import OutboxPublisher
from headrace.streams.relay.topic_relay import Phase
from headrace.streams.transaction_errors import ProducerResetError
from tests.streams.relay.relay_samples import (
    LDOS,
    TRACEPARENT,
    AnnouncementReader,
    Running,
    dead_letters,
    rows,
    wait_until,
)

pytestmark = pytest.mark.stack


class CrashedError(Exception):
    """Stands for the end of a process: nothing after the point was done."""


def crash_at(point: str) -> Callable[[str], None]:
    def reached(passed: str) -> None:
        if passed == point:
            raise CrashedError(point)

    return reached


async def test_each_row_is_announced_once_in_its_sources_order(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
):
    before, first = rows(700)
    await catalog.commit(before)
    async with Running(settings, outbox) as running:
        await running.idle()
        live, second = rows(40, first=700)
        await catalog.commit(live)
        events = await announced.read(740)
        await wait_until(lambda: running.relay.announced == 740)
    assert sorted(events) == sorted(first + second)
    assert await outbox.unpublished() == 0
    assert running.task.result() == Exit.OK
    by_source = defaultdict(list)
    for message in announced.messages:
        event = decode(message.value(), Ingested)
        assert message.key() == event.source_id.encode()
        assert traceparent_of(message.headers()) == TRACEPARENT
        by_source[event.source_id].append(event.sequence)
    assert all(sequences == sorted(sequences) for sequences in by_source.values())


async def test_a_new_row_is_announced_at_once(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
):
    slow_poll = settings.model_copy(update={"relay_poll_s": 60.0})
    async with Running(slow_poll, outbox) as running:
        await running.idle()
        await asyncio.sleep(0.2)
        batch, ids = rows(1)
        began = time.monotonic()
        await catalog.commit(batch)
        assert await announced.read(1, 10) == ids
    assert time.monotonic() - began < 5, "heard of it by polling"


@pytest.mark.parametrize("point", ["relay_before_send", "relay_before_commit", "relay_before_mark", "relay_after_mark"])
async def test_a_crash_anywhere_neither_loses_nor_repeats(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader, point: str
):
    batch, ids = rows(30)
    await catalog.commit(batch)
    async with Running(settings, outbox, crash_at(point)) as crashing:
        await wait_until(crashing.task.done)
    with pytest.raises(CrashedError):
        crashing.task.result()
    assert await outbox.unpublished() == (0 if point == "relay_after_mark" else 30)
    more, others = rows(5, first=30)
    await catalog.commit(more)
    async with Running(settings, outbox) as running:
        await running.idle()
        assert sorted(await announced.read(35)) == sorted(ids + others)
    assert await outbox.unpublished() == 0


async def test_what_was_left_open_is_aborted_and_unseen(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
):
    """A relay that dies between its messages and their commit leaves a transaction; the next one ends it."""
    batch, ids = rows(10)
    await catalog.commit(batch)
    async with Running(settings, outbox, crash_at("relay_before_commit")):
        pass
    for _ in range(3):
        async with Running(settings, outbox) as running:
            await running.idle()
    assert sorted(await announced.read(10)) == sorted(ids)


async def test_a_second_relay_stands_by_and_takes_over(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
):
    async with Running(settings, outbox) as leader:
        await leader.idle()
        async with Running(settings, outbox) as standby:
            first, ids = rows(20)
            await catalog.commit(first)
            await announced.read(20)
            assert standby.relay.phase is Phase.STANDING_BY
            leader.stop.set()
            await standby.idle()
            second, others = rows(20, first=20)
            await catalog.commit(second)
            assert sorted(await announced.read(40)) == sorted(ids + others)
            assert standby.relay.announced == 20


async def test_a_lead_that_is_cut_again_and_again_announces_once(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader, postgres_dsn: str
):
    ids = []
    connection = await asyncpg.connect(postgres_dsn)
    async with Running(settings, outbox) as leading, Running(settings, outbox) as other:
        await wait_until(lambda: Phase.IDLE in {leading.relay.phase, other.relay.phase})
        for first in range(0, 400, 40):
            batch, some = rows(40, first=first)
            ids += some
            await catalog.commit(batch)
            if first % 80 == 40:
                await connection.execute(
                    "select pg_terminate_backend(pid) from pg_locks join pg_stat_activity using (pid) "
                    "where locktype = 'advisory' and granted and pg_locks.database = "
                    "(select oid from pg_database where datname = current_database())"
                )
            await asyncio.sleep(0.1)
        events = await announced.read(400, 60)
        await wait_until(lambda: Phase.IDLE in {leading.relay.phase, other.relay.phase})
    await connection.close()
    assert sorted(events) == sorted(ids)
    assert sorted(await announced.read(400)) == sorted(ids)
    assert await outbox.unpublished() == 0


async def test_a_fenced_relay_ends_so_that_it_can_stand_by(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
):
    usurper = OutboxPublisher(settings, OUTPUT_TOPICS[LDOS], lambda _point: None)
    async with Running(settings, outbox) as running:
        await running.idle()
        await asyncio.to_thread(usurper.open)
        batch, ids = rows(3)
        await catalog.commit(batch)
        await wait_until(running.task.done)
    assert running.task.result() == Exit.TRANSIENT
    await asyncio.to_thread(usurper.close)
    async with Running(settings, outbox):
        assert sorted(await announced.read(3)) == sorted(ids)


async def test_large_dead_letters_go_out_in_bounded_transactions(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
):
    batch, _ = dead_letters(6, 9 * 1024 * 1024)
    await catalog.commit(batch)
    async with Running(settings, outbox) as running:
        await announced.read(6, 60)
        await running.idle()
    assert await outbox.unpublished() == 0
    letters = [decode(message.value(), DeadLetter) for message in announced.messages]
    assert sorted(letter.value for letter in letters) == sorted(row.value for row in batch.dead_letters)
    assert {message.key() for message in announced.messages} == {b"camera-1"}


async def test_what_a_slow_broker_cannot_take_at_once_goes_out_in_smaller_transactions(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader, monkeypatch: pytest.MonkeyPatch
):
    batch, ids = rows(12)
    await catalog.commit(batch)
    tried, bytes_max_given = [], []
    announce, pending = OutboxPublisher.announce, outbox.pending

    def slowly(self: OutboxPublisher, announcements: Sequence[Announcement]) -> dict[tuple[str, int], int]:
        tried.append(len(announcements))
        if len(announcements) > 5:
            raise ProducerResetError("timed out")
        return announce(self, announcements)

    async def looked_at(topic: str, limit: int, *, bytes_max: int) -> list[Pending]:
        rows = await pending(topic, limit, bytes_max=bytes_max)
        if rows:
            bytes_max_given.append(bytes_max)
        return rows

    monkeypatch.setattr(OutboxPublisher, "announce", slowly)
    monkeypatch.setattr(outbox, "pending", looked_at)
    hasty = settings.model_copy(update={"relay_rows_max": 16, "retry_delay_s": 0.01})
    async with Running(hasty, outbox) as running:
        assert sorted(await announced.read(12, 60)) == sorted(ids)
        await running.idle()
    assert tried == [12, 8, 4, 8, 8, 4, 4]
    assert bytes_max_given == [PENDING_BYTES_MAX // part for part in (1, 2, 4, 1, 2, 4, 1)]
    assert await outbox.unpublished() == 0


async def test_rows_that_cannot_be_announced_hide_nothing(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader
):
    """More rows whose records are gone than one look takes, and one whose attributes no topic takes."""
    small = settings.model_copy(update={"relay_rows_max": 5})
    lost, _ = rows(12)
    await catalog.commit(lost)
    batch, ids = rows(3, first=12)
    large = replace(batch.records[0], attributes=b'{"a":"%s"}' % (b"x" * 3_000_000))
    await catalog.commit(replace(batch, records=[large, *batch.records[1:]]))
    connection = await asyncpg.connect(settings.postgres_dsn.get_secret_value())
    await connection.execute("delete from records where sequence < 12")
    async with Running(small, outbox) as running:
        assert sorted(await announced.read(3)) == sorted(ids)
        await running.idle()
    assert await outbox.unpublished() == 0
    aside = await outbox.listed_set_aside(100)
    assert {row.record_id for row in aside} == {record.record_id for record in lost.records}
    assert all("no longer in the catalog" in row.why for row in aside)
    await connection.close()


async def test_the_backlog_is_measured_whole(
    settings: Settings, catalog: Catalog, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "COUNT_EVERY_S", 0.05)
    small = settings.model_copy(update={"relay_rows_max": 2})
    batch, _ = rows(30)
    await catalog.commit(batch)
    leader_lock = await outbox.wait_for_leader_lock()
    async with Running(small, outbox) as running:
        await wait_until(lambda: relay_pending_rows._value.get() == 30)
        await leader_lock.release()
        await running.idle()
        await wait_until(lambda: relay_pending_rows._value.get() == 0)
