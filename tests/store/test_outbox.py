import asyncio
from typing import Any

import asyncpg
import pytest

from headrace.schemas.catalog_rows import RowBatch
from headrace.schemas.digest import event_id
from headrace.schemas.events import DeadLetter, Ingested, Kind
from headrace.store.catalog import sessions
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.outbox import Outbox
from headrace.store.catalog.sessions import try_leader_lock
from headrace.store.errors import CatalogRefusedError, CatalogUnavailableError
from tests.store.store_rows import CAPTURED_AT_US, batch, blob, id_of, letter, record

FRAMES = "ingested.frames.v1"
LETTERS = "deadletters.v1"


async def test_pending_carries_everything_an_announcement_says(catalog: Catalog, outbox: Outbox) -> None:
    announced_record = record(1, kind=Kind.LDO, ldo_id="a-1", attributes=b'{"a": 1}', traceparent="00-aa-bb-01")
    await catalog.commit(RowBatch(blobs=[blob(1)], records=[announced_record], sightings=[], dead_letters=[]))
    [pending] = await outbox.pending("ingested.ldos.v1", 10)
    event = pending.event
    assert isinstance(event, Ingested)
    assert (pending.topic, pending.traceparent) == ("ingested.ldos.v1", "00-aa-bb-01")
    assert pending.event_id == event_id(id_of(1, Kind.LDO))
    assert event == Ingested(
        event_id=str(pending.event_id),
        record_id=str(announced_record.record_id),
        kind="ldo",
        digest=announced_record.digest.hex(),
        source_id="cam-1",
        site="factory",
        captured_at_us=CAPTURED_AT_US + 1,
        sequence=1,
        ingested_at_us=event.ingested_at_us,
        media_type="image/jpeg",
        size_bytes=1001,
        store_key=blob(1).store_key,
        ldo_id="a-1",
        attributes=b'{"a": 1}',
    )


async def test_a_further_site_is_told_what_it_said_itself(catalog: Catalog, outbox: Outbox, sql: Any) -> None:
    ours = record(1, site="south", attributes=b'{"secret": 1}', about="x", traceparent="00-aa-bb-01")
    theirs = record(1, site="north", source_id="cam-9", attributes=b'{"own": 1}', traceparent="00-cc-dd-01")
    for row in (ours, theirs):
        await catalog.commit(RowBatch(blobs=[blob(1)], records=[row], sightings=[], dead_letters=[]))
    first, further = await outbox.pending(FRAMES, 10)
    assert isinstance(first.event, Ingested)
    assert isinstance(further.event, Ingested)
    assert (first.event.site, first.event.attributes, first.traceparent) == ("south", b'{"secret": 1}', "00-aa-bb-01")
    assert (further.event.site, further.event.source_id) == ("north", "cam-9")
    assert (further.event.attributes, further.event.about, further.traceparent) == (b'{"own": 1}', None, "00-cc-dd-01")
    assert (further.event.record_id, further.event.digest) == (first.event.record_id, first.event.digest)
    assert further.event.ingested_at_us > first.event.ingested_at_us
    assert further.event.event_id == str(event_id(id_of(1), "north")) != first.event.event_id
    await sql.execute("delete from site_records")
    assert [pending.event is None for pending in await outbox.pending(FRAMES, 10)] == [False, True]


async def test_a_pending_dead_letter_is_whole(catalog: Catalog, outbox: Outbox) -> None:
    await catalog.commit(batch([], letters=[letter(3)]))
    [pending] = await outbox.pending(LETTERS, 10)
    event = pending.event
    assert isinstance(event, DeadLetter)
    assert (event.topic, event.partition, event.offset, event.timestamp_us) == ("edge.frames.v1", 0, 3, CAPTURED_AT_US)
    assert (event.key, event.value, event.headers) == (b"cam-1", b"poison 3", b"[]")
    assert event.event_id == str(pending.event_id)


async def test_pending_is_oldest_first_and_limited(catalog: Catalog, outbox: Outbox) -> None:
    await catalog.commit(batch(range(20)))
    first = await outbox.pending(FRAMES, 7)
    assert [pending.event.sequence for pending in first if isinstance(pending.event, Ingested)] == list(range(7))


async def test_pending_is_limited_in_bytes_but_never_empty(catalog: Catalog, outbox: Outbox) -> None:
    letters = [letter(number, value=bytes(1000), key=None) for number in range(5)]
    await catalog.commit(batch([], letters=letters))
    assert len(await outbox.pending(LETTERS, 10, bytes_max=2_500)) == 2
    assert len(await outbox.pending(LETTERS, 10, bytes_max=10)) == 1


async def test_attributes_count_too(catalog: Catalog, outbox: Outbox) -> None:
    large = b'{"a": "%s"}' % (b"x" * 1_000)
    numbers = range(1, 5)
    records = [record(number, attributes=large) for number in numbers]
    await catalog.commit(RowBatch(blobs=[blob(n) for n in numbers], records=records, sightings=[], dead_letters=[]))
    assert len(await outbox.pending(FRAMES, 10, bytes_max=2_500)) == 2


async def test_a_row_whose_record_is_gone_comes_without_an_event(catalog: Catalog, outbox: Outbox, sql: Any) -> None:
    await catalog.commit(batch([1, 2, 3]))
    await sql.execute("delete from records where record_id = any($1)", [id_of(1), id_of(2)])
    assert [row.event is None for row in await outbox.pending(FRAMES, 2)] == [True, True]
    assert [row.event is None for row in await outbox.pending(FRAMES, 3)] == [True, True, False]


async def test_what_is_marked_is_pending_no_more(catalog: Catalog, outbox: Outbox) -> None:
    await catalog.commit(batch(range(5)))
    rows = await outbox.pending(FRAMES, 3)
    assert await outbox.mark([row.outbox_id for row in rows], {("ingested.frames.v1", 0): 17}) == 3
    assert await outbox.unpublished() == 2
    assert await outbox.checkpoints() == {("ingested.frames.v1", 0): 17}


async def test_marking_may_be_repeated_and_a_checkpoint_may_go_back(catalog: Catalog, outbox: Outbox) -> None:
    await catalog.commit(batch([1]))
    rows = await outbox.pending(FRAMES, 3)
    await outbox.mark([rows[0].outbox_id], {("t", 0): 17, ("t", 1): 3})
    assert await outbox.mark([rows[0].outbox_id], {("t", 0): 0}) == 0
    assert await outbox.checkpoints() == {("t", 0): 0, ("t", 1): 3}


async def test_a_checkpoint_can_be_saved_alone(outbox: Outbox) -> None:
    assert await outbox.mark([], {("t", 0): 5}) == 0
    assert await outbox.checkpoints() == {("t", 0): 5}


async def test_what_was_seen_on_its_topic_is_marked(catalog: Catalog, outbox: Outbox) -> None:
    await catalog.commit(batch(range(4), letters=[letter(1)]))
    rows, [other] = await outbox.pending(FRAMES, 10), await outbox.pending(LETTERS, 10)
    assert await outbox.mark_seen(FRAMES, [rows[1].event_id, other.event_id, event_id(id_of(77))]) == 1
    left = [rows[position].outbox_id for position in (0, 2, 3)]
    assert [row.outbox_id for row in await outbox.pending(FRAMES, 10)] == left
    assert await outbox.pending(LETTERS, 10) == [other]


async def test_what_is_set_aside_is_kept_with_its_reason_until_it_is_retried(catalog: Catalog, outbox: Outbox) -> None:
    await catalog.commit(batch(range(3)))
    rows = await outbox.pending(FRAMES, 10)
    await outbox.set_aside({rows[1].outbox_id: "no \0 \ud800"})
    assert await outbox.pending(FRAMES, 10) == [rows[0], rows[2]]
    [aside] = await outbox.listed_set_aside(10)
    assert (aside.outbox_id, aside.event_id, aside.topic) == (rows[1].outbox_id, rows[1].event_id, FRAMES)
    assert aside.why == "no \ufffd \\ud800"
    assert await outbox.set_aside_rows() == 1
    assert await outbox.mark([aside.outbox_id]) == 0
    async with outbox.listen() as listener:
        await asyncio.wait_for(listener.notified.wait(), 5)
        listener.notified.clear()
        assert await outbox.retry_set_aside() == 1
        await asyncio.wait_for(listener.notified.wait(), 5)
    assert await outbox.pending(FRAMES, 10) == rows
    assert await outbox.set_aside_rows() == 0


async def test_only_one_leads_and_the_next_follows_when_it_lets_go(outbox: Outbox, postgres_dsn: str) -> None:
    leader_lock = await try_leader_lock(postgres_dsn)
    assert leader_lock is not None
    assert await try_leader_lock(postgres_dsn) is None
    waiting = asyncio.create_task(outbox.wait_for_leader_lock())
    await asyncio.sleep(0)
    await leader_lock.release()
    assert leader_lock.lost.is_set()
    second = await asyncio.wait_for(waiting, 5)
    assert not second.lost.is_set()
    await second.release()


async def test_a_leader_notices_that_its_connection_is_gone(outbox: Outbox, postgres_dsn: str, sql: Any) -> None:
    leader_lock = await try_leader_lock(postgres_dsn)
    assert leader_lock is not None
    await sql.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'headrace session' "
        "and datname = current_database()"
    )
    await asyncio.wait_for(leader_lock.lost.wait(), 5)
    await leader_lock.release()
    again = await outbox.wait_for_leader_lock()
    await again.release()


async def test_a_leader_whose_server_is_silent_gives_up(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, sql: Any
) -> None:
    monkeypatch.setattr(sessions, "PING_S", 0.05)
    monkeypatch.setattr(sessions, "PING", "select pg_sleep(60)")
    monkeypatch.setattr(sessions, "ANSWER_S_MAX", 0.2)
    leader_lock = await try_leader_lock(postgres_dsn)
    assert leader_lock is not None
    await asyncio.wait_for(leader_lock.lost.wait(), 5)
    await leader_lock.release()


async def test_a_listener_hears_of_new_rows(catalog: Catalog, outbox: Outbox) -> None:
    async with outbox.listen() as listener:
        await asyncio.wait_for(listener.notified.wait(), 5)  # a gap ended: it began to listen
        listener.notified.clear()
        await catalog.commit(batch([1]))
        await asyncio.wait_for(listener.notified.wait(), 5)


async def test_a_listener_connects_again_and_says_that_it_may_have_missed_something(
    outbox: Outbox, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "RETRY_S", 0.05)
    async with outbox.listen() as listener:
        await asyncio.wait_for(listener.notified.wait(), 5)
        listener.notified.clear()
        await sql.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'headrace session' and datname = current_database()"
        )
        await asyncio.wait_for(listener.notified.wait(), 5)


async def test_an_outage_is_waited_out(outbox: Outbox, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    connect = asyncpg.connect

    async def flaky(*args: Any, **named: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionRefusedError
        return await connect(*args, **named)

    monkeypatch.setattr(sessions, "RETRY_S", 0.01)
    monkeypatch.setattr(asyncpg, "connect", flaky)
    with pytest.raises(CatalogUnavailableError):
        await try_leader_lock(postgres_dsn)
    leader_lock = await asyncio.wait_for(outbox.wait_for_leader_lock(), 5)
    await leader_lock.release()


@pytest.mark.parametrize("fault", [CatalogRefusedError("no", where="here"), RuntimeError("unforeseen")])
async def test_a_listener_goes_on_whatever_failed(
    catalog: Catalog, outbox: Outbox, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    connect, tries = sessions._connect, []

    async def failing_once(dsn: str) -> Any:
        tries.append(dsn)
        if len(tries) == 1:
            raise fault
        return await connect(dsn)

    monkeypatch.setattr(sessions, "RETRY_S", 0.01)
    monkeypatch.setattr(sessions, "_connect", failing_once)
    async with outbox.listen() as listener:
        await asyncio.wait_for(listener.notified.wait(), 5)
