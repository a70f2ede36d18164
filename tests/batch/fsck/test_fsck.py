"""A check finds and names damage to a real store and catalog, and repairs it if another copy is left."""

import asyncio
from typing import Any
from uuid import uuid4

import aiobotocore.session
import pytest

from headrace.batch.fsck.findings import FsckProblem
from headrace.batch.fsck.repair import Repair
from headrace.runtime.settings import Settings
from headrace.schemas.digest import blob_key, canonical_body, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs import staging
from headrace.store.blobs.blob_store import Blobs
from tests.batch.batch_samples import Line, cid, frame
from tests.batch.fsck.damage import flipped, fsck, overwrite, problems
from tests.batch.test_redriving import run

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


async def test_nothing_is_found_where_nothing_is_wrong(settings: Settings, blobs: Blobs, line: Line) -> None:
    await line.take(frame("a"), frame("b"))
    await line.take(cid("a"), cid("b"))
    report = await fsck(settings, blobs, repair=True)
    assert report.findings == []
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

    output, _ = await asyncio.to_thread(run, settings, None, "fsck", "--json", code=1)
    assert {kind: [item["name"] for item in group] for kind, group in output["findings"].items()} == {
        "object_missing": [blob_key(deleted.sha256)],
        "bytes_differ": [blob_key(damaged.sha256)],
        "object_without_row": [orphan],
    }
    output, _ = await asyncio.to_thread(run, settings, None, "fsck", "--repair", "--json")
    assert len(output["healed"]) == 3
    assert output["unhealed"] == []
    assert await blobs.get(blob_key(deleted.sha256)) == deleted.body
    assert await blobs.get(blob_key(damaged.sha256)) == damaged.body
    assert await blobs.stat(orphan) is None
    output, _ = await asyncio.to_thread(run, settings, None, "fsck", "--json")
    assert output["clean"]


async def test_what_is_repaired_has_its_media_type(settings: Settings, blobs: Blobs, line: Line, sql: Any) -> None:
    picture, scans = frame(uuid4().hex), [cid(uuid4().hex) for _ in range(2)]
    await line.take(picture)
    await line.take(*scans)
    gone, left = (sha256_hex(canonical_body(scan)) for scan in scans)
    pack = await sql.fetchval("select store_key from blobs where encode(sha256, 'hex') = $1", gone)
    await blobs.delete(blob_key(picture.sha256))
    assert (await fsck(settings, blobs, repair=True)).clean
    assert await media_type(settings, blob_key(picture.sha256)) == "image/png"
    await blobs.delete(pack)
    assert (await fsck(settings, blobs, repair=True)).clean
    assert await media_type(settings, pack) == "application/x-tar"
    await sql.execute("delete from blobs where encode(sha256, 'hex') = $1", gone)
    await sql.execute("delete from records where encode(digest, 'hex') = $1", gone)
    await sql.execute("delete from outbox where record_id = $1", record_id(Kind.CID, gone))
    await blobs.delete(pack)
    assert (await fsck(settings, blobs, repair=True)).clean
    assert await media_type(settings, blob_key(left)) == "application/json"


async def test_what_has_no_copy_is_said_and_stays_a_finding(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    lost = frame(uuid4().hex)
    await line.take(lost)
    await sql.execute('update sightings set "offset" = 1000000000')
    await blobs.delete(blob_key(lost.sha256))
    report = await fsck(settings, blobs, repair=True)
    ((result, why),) = report.unhealed
    assert result.name == blob_key(lost.sha256)
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
    assert [match.name for match, _ in report.healed] == [pack]
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
    assert (await fsck(settings, blobs)).findings == []


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
    assert (await fsck(settings, blobs)).findings == []


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
    assert (report.findings, report.young) == ([], [key])


async def test_abandoned_staged_bodies_are_removed(settings: Settings, blobs: Blobs) -> None:
    key = f"{staging.STAGING_PREFIX}plant/camera/x"
    await overwrite(blobs, key, b"x")
    report = await fsck(settings, blobs, repair=True)
    assert problems(report) == {(FsckProblem.STAGED_ABANDONED, key)}
    assert await blobs.stat(key) is None


@pytest.mark.parametrize("prefix", [staging.STAGING_PREFIX, staging.QUARANTINE_PREFIX])
async def test_what_is_written_again_after_the_listing_stays(
    settings: Settings, blobs: Blobs, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, old = f"{prefix}plant/camera/again", f"{prefix}plant/camera/old"
    for key in (again, old):
        await overwrite(blobs, key, b"x")
    repair = Repair.run

    async def late(self: Repair) -> None:
        await overwrite(blobs, again, b"x")
        await repair(self)

    monkeypatch.setattr(Repair, "run", late)
    settings = settings.model_copy(update={"quarantine_days": 0.0})
    report = await fsck(settings, blobs, repair=True)
    assert {name for _, name in problems(report)} == {again, old}
    assert {finding.name: how for finding, how in report.healed} == {
        again: "it was written again by now",
        old: "removed",
    }
    assert await blobs.get(again) == b"x"
    assert await blobs.stat(old) is None


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
    assert (await fsck(settings, blobs)).findings == [], "what was forgotten is not missed"


async def media_type(settings: Settings, key: str) -> str:
    client = aiobotocore.session.get_session().create_client(
        "s3",
        endpoint_url=settings.store_endpoint,
        region_name="us-east-1",
        aws_access_key_id=settings.store_access_key.get_secret_value(),
        aws_secret_access_key=settings.store_secret_key.get_secret_value(),
    )
    bucket, prefix = settings.store_url.removeprefix("s3://").split("/", 1)
    async with client as s3:
        head = await s3.head_object(Bucket=bucket, Key=f"{prefix}/{key}")
    return str(head["ContentType"])
