import asyncio
import random
import string
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace.schemas.catalog_rows import KnownDigests, LossRow, Outcomes, RowBatch, SightingKey, Tombstone
from headrace.schemas.digest import event_id
from headrace.schemas.events import Kind
from headrace.schemas.limits import CODE_BYTES_MAX
from headrace.store.catalog import catalog as catalog_module
from headrace.store.catalog.catalog import NOTIFY_EVERY_S, Catalog
from tests.store.store_rows import CAPTURED_AT_US, batch, blob, digest_of, id_of, letter, record, sighting

Sql = Any  # asyncpg's connection, which is generic in its stubs only

HEARD_S_MAX = 20.0
POINTS = [
    "tx_began",
    "after_blobs",
    "after_records",
    "after_sightings",
    "after_outbox",
    "before_commit",
    "after_commit",
]


async def count(sql: Sql, table: str) -> int:
    return int(await sql.fetchval(f"select count(*) from {table}"))


async def counts(sql: Sql) -> dict[str, int]:
    tables = ("blobs", "records", "sightings", "outbox", "dead_letters")
    return {table: await count(sql, table) for table in tables}


async def test_a_new_record_is_stored_sighted_and_to_be_announced(catalog: Catalog, sql: Sql) -> None:
    done = await catalog.commit(batch([1, 2, 3]))
    assert done.new_records == {id_of(1), id_of(2), id_of(3)}
    assert (done.new_sightings, done.duplicates, done.new_dead_letters) == (3, 0, 0)
    assert await counts(sql) == {"blobs": 3, "records": 3, "sightings": 3, "outbox": 3, "dead_letters": 0}


async def test_every_column_is_kept_exactly(catalog: Catalog, sql: Sql) -> None:
    kept = record(
        1,
        kind=Kind.LDO,
        width=1920,
        height=1080,
        duration_us=5_000_000,
        ldo_id="ldo 'x'; drop table records",
        code='{"a","b\\',
        about="Schweißnaht\n\u2028 🙂",
        attributes=b'{"a": [1e308, null, "\\u00e9"],  "b": 1}',
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        sequence=2**63 - 1,
    )
    await catalog.commit(RowBatch(blobs=[blob(1)], records=[kept], sightings=[], dead_letters=[]))
    row = dict(await sql.fetchrow("select *, attributes::text as attributes from records"))
    captured = row.pop("captured_at")
    assert captured == datetime.fromtimestamp(CAPTURED_AT_US // 1_000_000, UTC).replace(
        microsecond=(CAPTURED_AT_US + 1) % 1_000_000
    )
    assert row.pop("attributes") == '{"a": [1e308, null, "\\u00e9"],  "b": 1}'
    assert row.pop("ingested_at") is not None
    assert row == {name: getattr(kept, name) for name in row}


async def test_a_repeated_batch_changes_nothing(catalog: Catalog, sql: Sql) -> None:
    again = batch([1, 2], letters=[letter(9)])
    await catalog.commit(again)
    before = await counts(sql)
    done = await catalog.commit(again)
    assert await counts(sql) == before
    assert (done.new_records, done.new_sightings, done.duplicates, done.new_dead_letters) == (frozenset(), 0, 2, 0)
    assert await sql.fetchval("select deliveries from sources") == 2


async def test_a_duplicate_adds_a_sighting_and_nothing_else(catalog: Catalog, sql: Sql) -> None:
    await catalog.commit(batch([1]))
    seen_again = RowBatch(
        blobs=[blob(1)],
        records=[record(1, source_id="cam-2")],
        sightings=[sighting(1, source_id="cam-2", offset=77)],
        dead_letters=[],
    )
    done = await catalog.commit(seen_again)
    assert (done.new_records, done.new_sightings, done.duplicates) == (frozenset(), 1, 1)
    assert await counts(sql) == {"blobs": 1, "records": 1, "sightings": 2, "outbox": 1, "dead_letters": 0}
    assert await sql.fetchval("select source_id from records") == "cam-1"


async def test_a_record_that_comes_twice_in_a_batch_is_one_record_with_two_sightings(
    catalog: Catalog, sql: Sql
) -> None:
    twice = RowBatch(
        blobs=[blob(1), blob(1)],
        records=[record(1, source_id="first"), record(1, source_id="second")],
        sightings=[sighting(1, offset=1), sighting(1, offset=2)],
        dead_letters=[],
    )
    done = await catalog.commit(twice)
    assert (len(done.new_records), done.new_sightings, done.duplicates) == (1, 2, 1)
    assert await counts(sql) == {"blobs": 1, "records": 1, "sightings": 2, "outbox": 1, "dead_letters": 0}
    assert await sql.fetchval("select source_id from records") == "first"


@pytest.mark.parametrize("together", [True, False])
async def test_a_record_is_announced_once_for_each_further_site(catalog: Catalog, sql: Sql, together: bool) -> None:
    deliveries = [(1, "factory"), (1, "north"), (2, "factory"), (1, "south"), (1, "north"), (1, "factory")]
    rows = [
        (record(number, site=site, source_id=f"cam-{offset}"), sighting(number, site=site, offset=offset))
        for offset, (number, site) in enumerate(deliveries)
    ]
    parts = [rows] if together else [[row] for row in rows]
    for part in [*parts, *parts]:
        records, sightings = map(list, zip(*part, strict=True))
        await catalog.commit(RowBatch(blobs=[blob(1), blob(2)], records=records, sightings=sightings, dead_letters=[]))
    announced = await sql.fetch("select event_id, record_id, site from outbox order by id")
    assert [tuple(row) for row in announced] == [
        (event_id(id_of(1)), id_of(1), None),
        (event_id(id_of(1), "north"), id_of(1), "north"),
        (event_id(id_of(2)), id_of(2), None),
        (event_id(id_of(1), "south"), id_of(1), "south"),
    ]
    further = await sql.fetch("select record_id, site, source_id from site_records order by site")
    assert [tuple(row) for row in further] == [(id_of(1), "north", "cam-1"), (id_of(1), "south", "cam-3")]


async def test_the_same_bytes_as_two_kinds_are_two_records_of_one_blob(catalog: Catalog, sql: Sql) -> None:
    await catalog.commit(batch([1], kind=Kind.FRAME))
    await catalog.commit(batch([1], kind=Kind.CLIP))
    assert await counts(sql) == {"blobs": 1, "records": 2, "sightings": 2, "outbox": 2, "dead_letters": 0}


async def test_items_of_one_message_are_told_apart_by_their_index(catalog: Catalog, sql: Sql) -> None:
    sightings = [sighting(1, offset=5, index=0), sighting(1, offset=5, index=1)]
    await catalog.commit(RowBatch(blobs=[], records=[], sightings=sightings, dead_letters=[]))
    assert await count(sql, "sightings") == 2


async def test_a_topic_that_was_made_anew_hides_no_observation(catalog: Catalog, sql: Sql) -> None:
    await catalog.commit(batch([1]))
    anew = RowBatch(
        blobs=[blob(2)], records=[record(2)], sightings=[sighting(2, offset=sighting(1).offset)], dead_letters=[]
    )
    assert (await catalog.commit(anew)).new_sightings == 1
    assert await count(sql, "sightings") == 2


async def test_announcements_follow_the_order_of_the_input(catalog: Catalog, sql: Sql) -> None:
    numbers = list(range(200))
    random.Random(7).shuffle(numbers)
    await catalog.commit(batch(numbers))
    rows = await sql.fetch("select record_id from outbox order by id")
    assert [row[0] for row in rows] == [id_of(number) for number in numbers]


async def test_an_announcement_names_its_topic_and_event(catalog: Catalog, sql: Sql) -> None:
    await catalog.commit(batch([1], kind=Kind.CLIP, letters=[letter(5)]))
    rows = await sql.fetch("select event_id, topic, record_id, dead_letter_id, published_at from outbox order by id")
    clip, dead = id_of(1, Kind.CLIP), letter(5).dead_letter_id
    assert [tuple(row) for row in rows] == [
        (event_id(clip), "ingested.clips.v1", clip, None, None),
        (event_id(dead), "deadletters.v1", None, dead, None),
    ]


async def test_the_relay_hears_of_new_rows_and_gateways_of_duplicates_too(catalog: Catalog, sql: Sql) -> None:
    heard: list[str] = []
    await sql.add_listener("headrace_outbox", lambda *notice: heard.append(str(notice[2])))
    await catalog.commit(batch(range(50)))
    async with asyncio.timeout(HEARD_S_MAX):
        while not heard:
            await asyncio.sleep(NOTIFY_EVERY_S)
            await sql.execute("select 1")
    await sql.add_listener("headrace_ingested", lambda *notice: heard.append(str(notice[2])))
    await catalog.commit(batch(range(50)))
    await asyncio.sleep(10 * NOTIFY_EVERY_S)
    await sql.execute("select 1")
    assert heard == ["headrace_outbox", "headrace_ingested"]


async def test_of_many_commits_at_once_the_relay_hears_once_and_of_the_last_one_too(catalog: Catalog, sql: Sql) -> None:
    heard: list[int] = []
    await sql.add_listener("headrace_outbox", lambda *_: heard.append(len(heard)))
    catalog._notify_soon(announces=True)
    notifying = catalog._notifying
    assert notifying is not None
    await asyncio.sleep(0)  # the first notification is on its way
    for _ in range(100):
        catalog._notify_soon(announces=True)
    await asyncio.wait_for(notifying, HEARD_S_MAX)
    await sql.execute("select 1")
    assert len(heard) == 2


async def test_a_source_counts_its_deliveries_and_remembers_its_highest_sequence(catalog: Catalog, sql: Sql) -> None:
    await catalog.commit(batch([5, 9]))
    await catalog.commit(batch([3], source_id="cam-1"))
    await catalog.commit(batch([4], source_id="cam-2"))
    rows = await sql.fetch("select source_id, sequence_max, deliveries from sources order by source_id")
    assert [tuple(row) for row in rows] == [("cam-1", 9, 3), ("cam-2", 4, 1)]


async def test_a_dead_letter_keeps_whatever_bytes_it_has(catalog: Catalog, sql: Sql) -> None:
    hostile = [
        letter(1, value=None, key=None),
        letter(2, value=b"\0\xff" * 10, headers=b'[["\\u0000", "AA=="]]', reason="it says \0 and \ud800"),
        letter(3, site="a\0b", source_id="c\0d", topic="edge.ldos.v1"),
    ]
    done = await catalog.commit(RowBatch(blobs=[], records=[], sightings=[], dead_letters=hostile))
    assert done.new_dead_letters == 3
    row = await sql.fetchrow('select value, headers::text as headers, reason from dead_letters where "offset" = 2')
    assert (row["value"], row["headers"]) == (b"\0\xff" * 10, '[["\\u0000", "AA=="]]')
    assert "\0" not in row["reason"]


async def test_large_dead_letters_are_written_in_several_statements(
    catalog: Catalog, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "DEAD_LETTER_STATEMENT_BYTES_MAX", 2_500)
    letters = [letter(number, value=bytes(1_000)) for number in range(9)] + [letter(99, value=bytes(9_000))]
    done = await catalog.commit(RowBatch(blobs=[], records=[], sightings=[], dead_letters=letters))
    assert done.new_dead_letters == 10
    assert await count(sql, "outbox") == 10


async def test_an_empty_batch_is_committed(catalog: Catalog) -> None:
    done = await catalog.commit(RowBatch(blobs=[], records=[], sightings=[], dead_letters=[]))
    assert done.new_sightings == 0


async def test_workers_with_the_same_digests_in_other_orders_do_not_deadlock(catalog: Catalog, sql: Sql) -> None:
    def shuffled(seed: int) -> RowBatch:
        numbers = list(range(150))
        random.Random(seed).shuffle(numbers)
        return batch(numbers)

    done = await asyncio.gather(*(catalog.commit(shuffled(seed)) for seed in range(6)))
    assert sum(len(committed.new_records) for committed in done) == 150
    assert await counts(sql) == {"blobs": 150, "records": 150, "sightings": 150, "outbox": 150, "dead_letters": 0}


async def test_a_look_up_returns_blobs_and_tombstones(catalog: Catalog, sql: Sql) -> None:
    await catalog.commit(batch([1, 2]))
    await sql.execute("insert into tombstones values ($1, 'plant', 'cam', $2)", digest_of(1), id_of(1))
    known = await catalog.look_up([digest_of(1), digest_of(3)])
    assert set(known.blobs) == {digest_of(1)}
    assert known.tombstones == [Tombstone(digest_of(1), "plant", "cam")]
    place = known.blobs[digest_of(1)]
    assert (place.store_key, place.store_offset, place.size_bytes) == (blob(1).store_key, None, 1001)
    assert await catalog.look_up([]) == KnownDigests()


async def test_a_sighting_is_that_of_its_source_and_site(catalog: Catalog) -> None:
    await catalog.commit(batch([1]))
    known = SightingKey(id_of(1), "factory", "cam-1")
    others = [replace(known, site="other"), replace(known, source_id="cam-2"), replace(known, record_id=id_of(2))]
    assert [await catalog.has_sighting(key) for key in (known, *others)] == [True, False, False, False]


async def test_recent_outcomes_are_counted_by_source_and_else_by_key(catalog: Catalog, sql: Sql) -> None:
    letters = [letter(number, site="factory", source_id="cam-2") for number in range(3)]
    letters += [letter(3, key=b"k" * 200), letter(4, key=None)]
    await catalog.commit(batch([1, 2], letters=letters))
    await sql.execute("update dead_letters set rejected_at = now() - interval '2 minutes' where \"offset\" = 0")
    outcomes = await catalog.recent_outcomes(Kind.FRAME, 60.0)
    assert outcomes == Outcomes(2, {("factory", "cam-2"): 2, b"k" * 128: 1, b"": 1})
    assert await catalog.recent_outcomes(Kind.CID, 60.0) == Outcomes(0, {})


@pytest.mark.parametrize("point", POINTS)
async def test_a_batch_that_ends_at_any_point_is_whole_after_its_repetition(
    catalog: Catalog, sql: Sql, point: str
) -> None:
    class EndedError(Exception):
        pass

    def end(reached: str) -> None:
        if reached == point:
            raise EndedError

    with pytest.raises(EndedError):
        await catalog.commit(batch([1, 2, 3]), reached=end)
    written = 3 if point == "after_commit" else 0
    assert set((await counts(sql)).values()) == {written, 0}
    await catalog.commit(batch([1, 2, 3]))
    assert await counts(sql) == {"blobs": 3, "records": 3, "sightings": 3, "outbox": 3, "dead_letters": 0}


async def test_every_point_is_reached_in_order(catalog: Catalog) -> None:
    reached: list[str] = []
    await catalog.commit(batch([1]), reached=reached.append)
    assert reached == POINTS


async def test_the_longest_code_that_a_message_may_hold_is_kept(catalog: Catalog, sql: Sql) -> None:
    longest = "".join(random.Random(1).choices(string.printable[:94], k=CODE_BYTES_MAX))
    await catalog.commit(RowBatch(blobs=[], records=[record(1, code=longest)], sightings=[], dead_letters=[]))
    assert await sql.fetchval("select count(*) from records where code = $1", longest) == 1


async def test_what_sources_report_as_lost_is_kept_and_counted_once(catalog: Catalog) -> None:
    def report(source_id: str, dropped: int, damaged: int) -> RowBatch:
        row = LossRow(site="plant", source_id=source_id, spool="0123456789abcdef", dropped=dropped, damaged=damaged)
        return RowBatch(blobs=[], records=[], sightings=[], dead_letters=[], losses=[row])

    counted = []
    for args in [("a", 3, 1), ("a", 3, 1), ("b", 2, 1), ("a", 5, 4), ("a", 4, 2), ("b", 2, 4)]:
        result = await catalog.commit(report(*args))
        counted.append((result.newly_dropped, result.newly_damaged))
    assert counted == [(3, 1), (0, 0), (2, 0), (2, 3), (0, 0), (0, 0)]
    losses = await catalog.ingest_progress().source_losses()
    assert {(loss.source_id, loss.dropped, loss.damaged) for loss in losses} == {("a", 5, 4), ("b", 2, 4)}


async def test_the_counts_of_records_follow_every_insert_deletion_and_change_of_source(
    catalog: Catalog, sql: Sql
) -> None:
    async def check(number: int) -> None:
        columns = "site, source_id, kind"
        counted = await sql.fetch(f"select {columns}, count(*) from records group by {columns} order by {columns}")
        assert await sql.fetch(f"select {columns}, records from record_counts order by {columns}") == counted
        assert len(counted) == number

    await catalog.commit(batch(range(20), kind=Kind.LDO))
    await catalog.commit(batch(range(10, 30), kind=Kind.LDO))
    await catalog.commit(batch(range(5), kind=Kind.CID))
    await check(2)
    await sql.execute("update records set source_id = 'other' where sequence < 3")
    await check(4)
    await sql.execute("update records set about = 'the same source'")
    await sql.execute("delete from records where source_id = 'other' and kind = 'cid' or sequence > 25")
    await check(3)
    await sql.execute("delete from records")
    await check(0)
