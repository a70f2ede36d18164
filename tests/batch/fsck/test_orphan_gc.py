"""Orphans are removed while workers store the same bytes again, and nothing that is referenced is lost."""

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from headrace.batch.fsck.check import FsckOptions, open_and_check
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.digest import blob_key, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import QUARANTINE_PREFIX
from headrace.store.catalog.orphan_gc import OrphanGc
from headrace.store.errors import CatalogRevertedError, CatalogUnavailableError
from headrace.store.locks import COLLECTOR_LOCK
from headrace.streams.worker.group_commit import commit_or_store_again
from tests.batch.batch_samples import Line, frame
from tests.batch.fsck.damage import fsck

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


async def test_a_second_repair_waits_for_the_first(settings: Settings, blobs: Blobs, postgres_dsn: str) -> None:
    async with OrphanGc.open(postgres_dsn):
        with pytest.raises(HeadraceError, match="restore or repair is running"):
            await open_and_check(settings, blobs, FsckOptions(repair=True))


async def test_a_blob_that_comes_again_while_it_is_collected_is_never_lost(
    settings: Settings, blobs: Blobs, line: Line, postgres_dsn: str
) -> None:
    """E16: the PUT finds the orphan, and the collection deletes it, in every order that chance gives."""
    deliveries = {}
    for number in range(100):
        event = frame(f"{number} {uuid4().hex}")
        assert event.body is not None
        await blobs.put(blob_key(event.sha256), event.body)
        deliveries[event.sha256] = line.published(event)
    ingest, removed = line.ingest(), 0
    async with OrphanGc.open(postgres_dsn) as collection:
        for digest, messages in deliveries.items():
            key = blob_key(digest)

            async def collect(key: str = key) -> int:
                free = await collection.mark([key])
                for item in free:
                    await blobs.delete(item)
                await collection.release()
                return len(free)

            async def worker(messages: Any = messages) -> None:
                decoded = await ingest.decode(Kind.FRAME, messages)
                await commit_or_store_again(ingest, await ingest.store_bodies(decoded))

            count, _ = await asyncio.gather(collect(), worker())
            removed += count
            assert await blobs.stat(key) is not None
    assert removed > 0
    assert (await fsck(settings, blobs)).findings == []


async def test_every_step_of_a_collection_against_every_step_of_a_worker(
    blobs: Blobs, line: Line, postgres_dsn: str
) -> None:
    """The interleavings by hand: the worker has put before the mark, or before the deletion."""
    for put_before in ("mark", "delete"):
        event = frame(uuid4().hex)
        assert event.body is not None
        key = blob_key(event.sha256)
        await blobs.put(key, event.body)
        messages, ingest = line.published(event), line.ingest()
        decoded = await ingest.decode(Kind.FRAME, messages)
        stored = await ingest.store_bodies(decoded) if put_before == "mark" else None
        async with OrphanGc.open(postgres_dsn) as collection:
            assert await collection.mark([key]) == [key]
            stored = stored or await ingest.store_bodies(decoded)
            committing = asyncio.create_task(commit_or_store_again(ingest, stored))
            await asyncio.sleep(0.1)
            assert not committing.done(), "it waits for the release"
            await blobs.delete(key)
            await collection.release()
            await committing
        assert await blobs.get(key) == event.body


async def test_a_worker_that_comes_late_with_an_old_generation_puts_again(
    blobs: Blobs, line: Line, postgres_dsn: str
) -> None:
    event = frame(uuid4().hex)
    assert event.body is not None
    key = blob_key(event.sha256)
    ingest = line.ingest()
    decoded = await ingest.decode(Kind.FRAME, line.published(event))
    stored = await ingest.store_bodies(decoded)
    async with OrphanGc.open(postgres_dsn) as collection:
        for name in await collection.mark([key]):
            await blobs.delete(name)
        await collection.release()
    await commit_or_store_again(ingest, stored)
    assert await blobs.get(key) == event.body


async def test_a_collector_that_lost_its_lock_marks_nothing_and_leaves_the_marks_of_the_next(
    sql: Any, postgres_dsn: str
) -> None:
    marks, old = "select array_agg(store_key) from collecting", OrphanGc.open(postgres_dsn)
    collection = await old.__aenter__()
    # As with a restart of PostgreSQL: the session that holds the lock ends.
    await sql.fetchval(
        "select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory' and objid = $1::bigint"
        " and database = (select oid from pg_database where datname = current_database())",
        COLLECTOR_LOCK,
    )
    async with OrphanGc.open(postgres_dsn) as another:
        await another.mark(["blobs/new"])
        with pytest.raises(CatalogUnavailableError):
            await collection.mark(["blobs/old"])
        with pytest.raises(CatalogUnavailableError):
            await collection.release()
        assert await sql.fetchval(marks) == ["blobs/new"]
        await another.release()
    with pytest.raises(CatalogUnavailableError):
        await old.__aexit__(None, None, None)


async def test_marks_that_a_dead_collector_left_are_taken_over_once_they_are_old(
    blobs: Blobs, line: Line, sql: Any, postgres_dsn: str
) -> None:
    event = frame(uuid4().hex)
    await sql.execute("insert into collecting (store_key) values ($1)", blob_key(event.sha256))
    with pytest.raises(HeadraceError, match="a moment ago"):
        async with OrphanGc.open(postgres_dsn):
            pass
    await sql.execute("update collecting set marked_at = now() - interval '10 minutes'")
    await line.take(event)
    assert await blobs.get(blob_key(event.sha256)) == event.body
    assert await sql.fetchval("select count(*) from collecting") == 0


async def test_no_orphan_is_deleted_while_a_recovery_is_not_over(
    settings: Settings, blobs: Blobs, postgres_dsn: str
) -> None:
    body = uuid4().bytes
    orphan = blob_key(sha256_hex(body))
    await blobs.put(orphan, body)
    await asyncio.sleep(1.1)  # times of objects may be whole seconds

    async def repaired(statement: str) -> str:
        with psycopg.connect(postgres_dsn, autocommit=True) as sql:
            sql.execute(statement)  # type: ignore[call-overload]
        report = await open_and_check(settings, blobs, FsckOptions(repair=True, force=True))
        ((_, outcome),) = report.healed or report.unhealed
        return outcome

    for statement in (
        "update installation set recovering_since = now()",
        "update installation set recovering_since = null, timeline = timeline + 1",
        "insert into recovery_targets values ('edge.frames.v1', 0, 8)",
    ):
        with pytest.raises(CatalogRevertedError):
            await repaired(statement)
        assert await blobs.get(orphan) == body
    suspended = [
        (
            "update installation set timeline = timeline - 1, quarantine_until = now() + interval '1 day'",
            "1 partitions are still being ingested again",
        ),
        ("insert into ingest_progress values ('edge.frames.v1', 0, 7)", "1 partitions are still being ingested again"),
    ]
    for statement, why in suspended:
        assert why in await repaired(statement)
        assert await blobs.get(orphan) == body
    assert await repaired("update ingest_progress set next_offset = 8") == "moved to quarantine"
    assert await blobs.stat(orphan) is None
    assert await blobs.get(f"{QUARANTINE_PREFIX}{orphan}") == body
    settings = settings.model_copy(update={"quarantine_days": 0.0})
    await asyncio.sleep(1.1)
    assert await repaired("select") == "removed"
    assert await blobs.stat(f"{QUARANTINE_PREFIX}{orphan}") is None
