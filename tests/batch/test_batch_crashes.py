"""Commands that are ended at each of their steps: nothing is lost or there twice, and nothing stays half erased."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from headrace.runtime.crash_points import CrashPoint
from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.digest import blob_key, dead_letter_id
from headrace.schemas.events import Cid, Kind
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.orphan_gc import MARK_S_MAX
from tests.batch.batch_samples import Line, cid, frame
from tests.commands import RunCommand, ended_at_each, headrace, run_as_process
from tests.processes import ServiceProcess
from tests.servers import mark_own
from tests.waiting import until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

REDRIVE = [point for point in CrashPoint if point.startswith("redrive_")]
COLLECT = [point for point in CrashPoint if point.startswith("collect_")]
ERASE = [point for point in CrashPoint if point.startswith("erase_")]
TOPIC = input_topic(Kind.CID).name
LETTERS = 3
ARRIVES_S_MAX = 60.0
MARK_OLD_S = MARK_S_MAX + 1


@pytest.fixture(scope="module")
def sql(module_settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(module_settings.postgres_dsn.get_secret_value(), autocommit=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def worker(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    log = tmp_path_factory.mktemp("worker") / "log"
    started = ServiceProcess(module_settings, "worker", "--kinds", "cids", log=log).wait_ready()
    yield started
    assert started.stop() == 0


def refused_before(sql: psycopg.Connection[Any], site: str, first_offset: int) -> list[tuple[int, Cid]]:
    """Dead letters of messages that a worker with an older decoder refused; nothing stands at those places by now.

    They are told by their site from what other tests left on the topic, which the worker may refuse too.
    """
    made = []
    for number in range(LETTERS):
        event = cid(uuid4().hex)
        value, offset = encode(event), first_offset + number
        sql.execute(
            'insert into dead_letters (dead_letter_id, code, reason, topic, partition, "offset", message_timestamp_us,'
            " key, value, site) values (%s, 'unknown_schema', 'schema 7', %s, 0, %s, 0, %s, %s, %s)",
            (dead_letter_id(TOPIC, 0, offset, value), TOPIC, offset, event.source_id.encode(), value, site),
        )
        made.append((offset, event))
    return made


@ended_at_each(REDRIVE, process_at=CrashPoint.REDRIVE_AFTER_PUBLISH)
def test_a_redrive_that_is_ended_there_goes_on_and_repeats_nothing(
    run: RunCommand,
    point: CrashPoint,
    module_settings: Settings,
    sql: psycopg.Connection[Any],
    worker: ServiceProcess,
) -> None:
    first = 10**9 + (2 * REDRIVE.index(point) + (run is run_as_process)) * LETTERS
    site = f"{point}-{run.__name__}"
    these = ("--where", f"site={site}")
    made = refused_before(sql, site, first)
    places = [offset for offset, _ in made]
    codes = [event.code for _, event in made]
    # Of the messages the second: some of the group are out then, and some are not.
    nth = 2 if point is CrashPoint.REDRIVE_BEFORE_PUBLISH else 1
    headrace(module_settings, "dlq", "redrive", *these, crash_at=f"{point}:{nth}", run=run)
    noted = 'select count(published_at) from redrives join dead_letters using (dead_letter_id) where "offset" = any(%s)'
    assert sql.execute(noted, (places,)).fetchone() == (0,), "nothing was noted as published"

    headrace(module_settings, "dlq", "redrive", *these)
    ended = (
        "select count(*), count(ended_at), count(d.record_id), max(r.attempt) from redrives r"
        ' join dead_letters d using (dead_letter_id) where "offset" = any(%s)'
    )
    until(
        lambda: worker.is_alive() and sql.execute(ended, (places,)).fetchone() == (LETTERS, LETTERS, LETTERS, 1),
        ARRIVES_S_MAX,
        "every end",
    )
    again = headrace(module_settings, "dlq", "redrive", *these, "--json")
    assert (again.json["published"], "no dead letter waits" in again.err) == (0, True)
    seen = sql.execute(
        'select "offset", code from sightings join records using (record_id) where code = any(%s) order by 1', (codes,)
    ).fetchall()
    assert seen == [(offset, event.code) for offset, event in made], "each where its source published it, and once"
    announced = "select count(*) from outbox join records using (record_id) where code = any(%s)"
    assert sql.execute(announced, (codes,)).fetchone() == (LETTERS,)


@ended_at_each(COLLECT, process_at=CrashPoint.COLLECT_AFTER_DELETE)
async def test_a_collection_that_is_ended_there_loses_nothing_that_comes_again(
    run: RunCommand, point: CrashPoint, settings: Settings, catalog: Catalog, postgres_dsn: str
) -> None:
    alone = settings.model_copy(update={"store_url": f"{settings.store_url}/{uuid4().hex}", "collect_grace_hours": 0.0})
    await mark_own(alone)
    blobs = Blobs.from_settings(alone)
    line = Line(alone, blobs, catalog)
    kept, again, orphan = (frame(uuid4().hex) for _ in range(3))
    await line.take(kept)
    for entry in (again, orphan):
        assert entry.body is not None
        await blobs.put(blob_key(entry.sha256), entry.body)
    await asyncio.sleep(1.1)  # times of objects may be whole seconds, and the grace is none

    headrace(alone, "fsck", "--repair", crash_at=str(point), run=run)
    refused = headrace(alone, "fsck", "--repair", code=Exit.FAILED)
    assert "ended in the middle of a deletion a moment ago" in refused.err
    # The bytes of one come again: until the marks are old, a deletion may still be on its way, so they wait.
    take_task = asyncio.create_task(line.take(again))
    await asyncio.sleep(1)
    assert not take_task.done()
    with psycopg.connect(postgres_dsn, autocommit=True) as sql:
        aged = sql.execute("update collecting set marked_at = marked_at - %s * interval '1 second'", (MARK_OLD_S,))
        assert aged.rowcount == 2
        await take_task
        assert sql.execute("select count(*) from collecting").fetchone() == (0,)

    await asyncio.sleep(1.1)
    headrace(alone, "fsck", "--repair")
    result = [await blobs.stat(blob_key(item.sha256)) is not None for item in (kept, again, orphan)]
    assert result == [True, True, False]
    assert await blobs.get(blob_key(again.sha256)) == again.body
    assert headrace(alone, "fsck", "--json").json["clean"]


@ended_at_each(ERASE, process_at=CrashPoint.ERASE_AFTER_OBJECT)
async def test_an_erasure_that_is_ended_there_goes_on_and_leaves_nothing(
    run: RunCommand, point: CrashPoint, settings: Settings, catalog: Catalog, postgres_dsn: str
) -> None:
    alone = settings.model_copy(update={"store_url": f"{settings.store_url}/{uuid4().hex}"})
    await mark_own(alone)
    blobs = Blobs.from_settings(alone)
    line = Line(alone, blobs, catalog)
    erased, kept = ([cid(uuid4().hex) for _ in range(2)] for _ in range(2))
    pictures = [frame(uuid4().hex) for _ in range(2)]
    await line.take(*erased, *kept)
    await line.take(*pictures)
    with psycopg.connect(postgres_dsn, autocommit=True) as sql:
        ids = sql.execute(
            "select record_id::text from records where code = any(%s) or kind = 'frame'",
            ([event.code for event in erased],),
        ).fetchall()
        names = [row[0] for row in ids]
        headrace(alone, "erase", *names, "--yes", crash_at=str(point), run=run)
        sql.execute("update collecting set marked_at = marked_at - %s * interval '1 second'", (MARK_OLD_S,))
        result = headrace(alone, "erase", "--resume", "--json")
        assert [outcome["report"]["records_and_dead_letters"] for outcome in result.json["erasures"]] == [4]
        left = sql.execute("select code from records order by code").fetchall()
        assert left == sorted((event.code,) for event in kept)
        for table in ("erasure_subjects", "erasure_objects", "erasure_messages", "collecting"):
            assert sql.execute(f"select count(*) from {table}").fetchone() == (0,), table  # type: ignore[arg-type]
        [(key,)] = sql.execute("select distinct store_key from blobs").fetchall()
    pack = await blobs.get(key)
    assert [event.code.encode() in pack for event in (*erased, *kept)] == [False, False, True, True]
    assert [await blobs.stat(blob_key(picture.sha256)) for picture in pictures] == [None, None]
