"""Damage done to a real store and catalog is found, named, and mended where another copy is left."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Producer

from headrace.batch.fsck import FsckOptions, FsckProblem, FsckReport, open_and_check
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.digest import blob_key, canonical_body, event_id, record_id, sha256_hex
from headrace.schemas.events import Ingested, Kind
from headrace.store.blobs import staging
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.orphan_gc import COLLECTOR_LOCK, OrphanGc
from headrace.store.errors import CatalogUnavailableError
from headrace.streams.worker.batch_pipeline import commit_batch
from tests.batch.batch_samples import Line, cid, frame
from tests.batch.test_redriving import run

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A part of the bucket, and a database, that no other test has; and no grace, since nothing here is old."""
    return settings.model_copy(
        update={
            "store_url": f"{settings.store_url}/{uuid4().hex}",
            "archive_url": "",
            "collect_grace_hours": 0.0,
            "staging_retention_days": 0.0,
        }
    )


async def fsck(settings: Settings, blobs: Blobs, **options: Any) -> FsckReport:
    await asyncio.sleep(1.1)  # times of objects may be whole seconds, and the grace is none
    return await open_and_check(settings, blobs, FsckOptions(**options))


def problems(report: FsckReport) -> set[tuple[FsckProblem, str]]:
    return {(found.problem, found.name) for found in report.found}


async def overwrite(blobs: Blobs, key: str, data: bytes) -> None:
    async def once() -> AsyncIterator[bytes]:
        yield data

    await blobs.put_stream(key, once())


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


async def test_nothing_is_found_where_nothing_is_wrong(settings: Settings, blobs: Blobs, line: Line) -> None:
    await line.take(frame("a"), frame("b"))
    await line.take(cid("a"), cid("b"))
    report = await fsck(settings, blobs, repair=True)
    assert report.found == []
    assert report.checked == {"objects": 3, "blobs": 4, "packs": 1, "hashed": 3}


async def test_a_deleted_object_a_flipped_byte_and_an_orphan_are_named_and_healed(
    settings: Settings, blobs: Blobs, line: Line
) -> None:
    tag = uuid4().hex
    deleted, damaged = frame(f"{tag} 1"), frame(f"{tag} 2")
    await line.take(deleted, damaged, frame(f"{tag} 3"))
    await blobs.delete(blob_key(deleted.sha256))
    assert damaged.body is not None
    await overwrite(blobs, blob_key(damaged.sha256), flipped(damaged.body, 50))
    orphan = blob_key(sha256_hex(tag.encode()))
    await blobs.put(orphan, tag.encode())
    await asyncio.sleep(1.1)

    said, _ = await asyncio.to_thread(run, settings, None, "fsck", "--json", code=1)
    assert {kind: [one["name"] for one in some] for kind, some in said["findings"].items()} == {
        "object_missing": [blob_key(deleted.sha256)],
        "bytes_differ": [blob_key(damaged.sha256)],
        "object_without_row": [orphan],
    }
    said, _ = await asyncio.to_thread(run, settings, None, "fsck", "--repair", "--json")
    assert len(said["healed"]) == 3
    assert said["unhealed"] == []
    assert await blobs.get(blob_key(deleted.sha256)) == deleted.body
    assert await blobs.get(blob_key(damaged.sha256)) == damaged.body
    assert await blobs.stat(orphan) is None
    said, _ = await asyncio.to_thread(run, settings, None, "fsck", "--json")
    assert said["clean"]


async def test_what_has_no_copy_is_said_and_stays_a_finding(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    lost = frame(uuid4().hex)
    await line.take(lost)
    await sql.execute('update sightings set "offset" = 1000000000')
    await blobs.delete(blob_key(lost.sha256))
    report = await fsck(settings, blobs, repair=True)
    ((found, why),) = report.unhealed
    assert found.name == blob_key(lost.sha256)
    assert "no copy is left" in why
    assert not report.clean


@pytest.mark.parametrize("harm", ["flip", "delete", "cut"])
async def test_a_pack_is_written_again_as_it_was(
    settings: Settings, blobs: Blobs, line: Line, sql: Any, harm: str
) -> None:
    scans = [cid(f"{uuid4().hex}") for _ in range(3)]
    await line.take(*scans)
    pack = await sql.fetchval("select distinct store_key from blobs")
    whole = await blobs.get(pack)
    match harm:
        case "flip":
            await overwrite(blobs, pack, flipped(whole, 520))
        case "delete":
            await blobs.delete(pack)
        case "cut":
            await overwrite(blobs, pack, whole[:1000])
    report = await fsck(settings, blobs, repair=True)
    assert [found.name for found, _ in report.healed] == [pack]
    assert await blobs.get(pack) == whole


async def test_a_pack_that_held_more_than_is_known_gives_up_its_blobs_one_by_one(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    scans = [cid(f"{uuid4().hex}") for _ in range(3)]
    await line.take(*scans)
    bodies = [canonical_body(scan) for scan in scans]
    pack = await sql.fetchval("select distinct store_key from blobs")
    gone = bytes.fromhex(sha256_hex(bodies[1]))
    await sql.execute("delete from blobs where sha256 = $1", gone)
    await sql.execute("delete from records where digest = $1", gone)
    await sql.execute("delete from outbox where record_id = $1", record_id(Kind.CID, gone.hex()))
    await blobs.delete(pack)
    report = await fsck(settings, blobs, repair=True)
    assert len(report.healed) == 1
    for body in (bodies[0], bodies[2]):
        assert await blobs.get(blob_key(sha256_hex(body))) == body
    assert (await fsck(settings, blobs)).found == []


async def test_rows_and_announcements_that_are_gone_come_back(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    rowless, silent = frame(uuid4().hex), frame(uuid4().hex)
    await line.take(rowless, silent)
    await sql.execute("delete from blobs where sha256 = $1", bytes.fromhex(rowless.sha256))
    record = record_id(Kind.FRAME, silent.sha256)
    await sql.execute("delete from outbox where record_id = $1", record)
    ghost = uuid4()
    await sql.execute("insert into outbox (event_id, topic, record_id) values ($1, 'ingested.frames.v1', $1)", ghost)
    report = await fsck(settings, blobs)
    assert problems(report) == {
        (FsckProblem.RECORD_WITHOUT_BLOB, str(record_id(Kind.FRAME, rowless.sha256))),
        (FsckProblem.OBJECT_WITHOUT_ROW, blob_key(rowless.sha256)),
        (FsckProblem.RECORD_WITHOUT_ANNOUNCEMENT, str(record)),
        (FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD, str(ghost)),
    }
    report = await fsck(settings, blobs, repair=True)
    assert report.clean, report.unhealed
    assert await blobs.get(blob_key(rowless.sha256)) == rowless.body, "its row came back before orphans were removed"
    assert await sql.fetchval("select published_at is null from outbox where record_id = $1", record)
    assert (await fsck(settings, blobs)).found == []


async def test_many_orphans_are_not_removed_unless_forced(settings: Settings, blobs: Blobs, line: Line) -> None:
    await line.take(frame(uuid4().hex))
    for number in range(12):
        await blobs.put(blob_key(sha256_hex(b"%d" % number)), b"%d" % number)
    report = await fsck(settings, blobs, repair=True)
    assert len(report.unhealed) == 12
    assert "--force" in report.unhealed[0][1]
    report = await fsck(settings, blobs, repair=True, force=True)
    assert len(report.healed) == 12


async def test_with_an_empty_catalog_nothing_is_removed(settings: Settings, blobs: Blobs) -> None:
    await blobs.put(blob_key(sha256_hex(b"x")), b"x")
    report = await fsck(settings, blobs, repair=True)
    assert len(report.unhealed) == 1
    assert await blobs.stat(blob_key(sha256_hex(b"x"))) is not None


async def test_young_objects_are_left_alone(settings: Settings, blobs: Blobs) -> None:
    patient = settings.model_copy(update={"collect_grace_hours": 1.0, "staging_retention_days": 1.0})
    key = blob_key(sha256_hex(b"x"))
    await blobs.put(key, b"x")
    await overwrite(blobs, f"{staging.STAGING_PREFIX}plant/camera/x", b"x")
    report = await fsck(patient, blobs, repair=True)
    assert (report.found, report.young) == ([], [key])


async def test_abandoned_staged_bodies_are_removed(settings: Settings, blobs: Blobs) -> None:
    key = f"{staging.STAGING_PREFIX}plant/camera/x"
    await overwrite(blobs, key, b"x")
    report = await fsck(settings, blobs, repair=True)
    assert problems(report) == {(FsckProblem.STAGED_ABANDONED, key)}
    assert await blobs.stat(key) is None


async def test_a_sample_reads_so_many_objects(settings: Settings, blobs: Blobs, line: Line) -> None:
    await line.take(*[frame(f"{number} {uuid4().hex}") for number in range(6)])
    report = await fsck(settings, blobs, sample=2)
    assert report.checked["hashed"] == 2


async def test_what_is_past_its_retention_ends(settings: Settings, blobs: Blobs, line: Line, sql: Any) -> None:
    await line.take(frame(uuid4().hex))
    await sql.execute("update outbox set published_at = now(), created_at = now() - interval '40 days'")
    await sql.execute("update records set ingested_at = now() - interval '40 days'")
    for days in (10, 100):
        await sql.execute(
            'insert into dead_letters (dead_letter_id, code, reason, topic, partition, "offset", message_timestamp_us,'
            " rejected_at) values (gen_random_uuid(), 'not_framed', '', 'edge.cids.v1', 0, $1::int, 0,"
            " now() - $1::int * interval '1 day')",
            days,
        )
    report = await fsck(settings, blobs, repair=True)
    assert report.removed == {"dead_letters": 1, "announcements": 1}
    assert await sql.fetchval("select count(*) from dead_letters") == 1
    assert (await fsck(settings, blobs)).found == [], "what was forgotten is not missed"


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
                for one in free:
                    await blobs.delete(one)
                await collection.release()
                return len(free)

            async def worker(messages: Any = messages) -> None:
                decoded = await ingest.decode(Kind.FRAME, messages)
                await commit_batch(ingest, decoded, await ingest.store_bodies(decoded))

            count, _ = await asyncio.gather(collect(), worker())
            removed += count
            assert await blobs.stat(key) is not None
    assert removed > 0
    assert (await fsck(settings, blobs)).found == []


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
            committing = asyncio.create_task(commit_batch(ingest, decoded, stored))
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
    await commit_batch(ingest, decoded, stored)
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


async def test_the_topics_show_what_the_outbox_does_not(settings: Settings, blobs: Blobs, line: Line, sql: Any) -> None:
    silent, out = frame(uuid4().hex), frame(uuid4().hex)
    await line.take(silent, out)
    record, announced, ghost = (record_id(Kind.FRAME, one.sha256) for one in (silent, out, frame(uuid4().hex)))
    await sql.execute("update outbox set published_at = now() - interval '1 minute'")
    announce(settings, announced, out.sha256)
    announce(settings, ghost, "0" * 64)
    assert (await fsck(settings, blobs)).found == []
    found = problems(await fsck(settings, blobs, topics=True))
    assert (FsckProblem.RECORD_WITHOUT_ANNOUNCEMENT, str(record)) in found
    assert (FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD, str(ghost)) in found
    assert str(announced) not in {name for _, name in found}
    report = await fsck(settings, blobs, topics=True, repair=True)
    assert str(record) in {one.name for one, _ in report.healed}
    assert await sql.fetchval("select published_at is null from outbox where record_id = $1", record)
    assert str(ghost) in {one.name for one, _ in report.unhealed}


async def test_an_announcement_whose_row_was_lost_is_not_published_again(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    event = frame(uuid4().hex)
    await line.take(event)
    record = record_id(Kind.FRAME, event.sha256)
    announce(settings, record, event.sha256)
    await sql.execute("delete from outbox")
    report = await fsck(settings, blobs, repair=True)
    assert report.clean
    assert await sql.fetchval("select published_at is not null from outbox where record_id = $1", record)


def announce(settings: Settings, record: UUID, digest: str) -> None:
    event = Ingested(
        event_id=str(event_id(record)),
        record_id=str(record),
        kind="frame",
        digest=digest,
        source_id="camera-1",
        site="plant",
        captured_at_us=1,
        sequence=1,
        ingested_at_us=1,
        media_type="image/png",
        size_bytes=1,
        store_key=blob_key(digest),
        store_offset=None,
        width=1,
        height=1,
        duration_us=None,
        ldo_id=None,
        code=None,
        about=None,
        attributes=b"{}",
    )
    producer = Producer(client_config(settings))
    producer.produce("ingested.frames.v1", encode(event))
    assert producer.flush(30) == 0
