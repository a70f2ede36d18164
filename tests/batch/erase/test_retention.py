"""Retention erases what is old by kind and site, and a legal hold keeps what it covers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from headrace.batch.erase import report
from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from headrace.schemas.digest import blob_key, record_id, staging_key
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs, once
from tests.batch.batch_samples import Line, cid, frame
from tests.batch.erase.erase_runs import erase, fsck_is_clean
from tests.commands import headrace

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


async def make_older(sql: Any, days: int, *digests: str) -> None:
    for table, column in (("records", "ingested_at"), ("sightings", "seen_at")):
        await sql.execute(
            f"update {table} set {column} = {column} - $1 * interval '1 day' where record_id in"
            " (select record_id from records where encode(digest, 'hex') = any($2))",
            days,
            list(digests),
        )


async def test_retention_erases_by_kind_and_site_and_what_comes_later_is_ingested_anew(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    old, young, elsewhere, shared, seen_again = (frame(uuid4().hex) for _ in range(5))
    elsewhere = replace(elsewhere, site="yard")
    await line.take(old, young, elsewhere, shared, replace(shared, site="yard"), seen_again)
    await line.take(cid("kept: there is no rule for scans"))
    await make_older(sql, 40, *(event.sha256 for event in (old, elsewhere, shared, seen_again)))
    await line.take(seen_again)
    assert "may wait" in headrace(settings, "retention", "set", "frames", "7", code=Exit.USAGE).err
    headrace(settings, "retention", "set", "frames", "30")
    headrace(settings, "retention", "set", "frames", "365", "--site", "yard")
    rules = headrace(settings, "retention", "ls", "--json").json
    assert [(rule["site"], rule["days"]) for rule in rules["rules"]] == [("yard", 365), ("", 30)]

    headrace(settings, "retention", "run")
    left = {row[0] for row in await sql.fetch("select encode(digest, 'hex') from records where kind = 'frame'")}
    assert left == {event.sha256 for event in (young, elsewhere, shared, seen_again)}
    assert await blobs.stat(blob_key(old.sha256)) is None
    assert await sql.fetchval("select count(*) from records where kind = 'cid'") == 1
    await line.take(old)
    assert await blobs.get(blob_key(old.sha256)) == old.body, "retention leaves no tombstone"

    headrace(settings, "retention", "rm", "frames", "--site", "yard")
    result = headrace(settings, "retention", "run", "--json").json
    assert result["erasures"][0]["report"]["records_and_dead_letters"] == 2
    headrace(settings, "retention", "rm", "clips", code=Exit.FAILED)
    await fsck_is_clean(settings)


async def test_a_hold_refuses_an_erasure_and_is_left_out_by_retention(settings: Settings, line: Line, sql: Any) -> None:
    held, other = frame(uuid4().hex), replace(frame(uuid4().hex), source_id="camera-2")
    bad = frame(uuid4().hex, width=5)
    await line.take(held, other)
    await line.take(bad)
    await make_older(sql, 40, held.sha256, other.sha256)
    holds = [
        headrace(settings, "hold", "add", held.sha256, "--reason", "case 12", "--json").json,
        headrace(settings, "hold", "add", "--site", "plant", "--source", "camera-1", "--reason", "b", "--json").json,
    ]
    for args in ([held.sha256], ["--site", "plant"], ["--site", "plant", "--source", "camera-1"]):
        await erase(settings, *args, "--yes", code=Exit.FAILED)
    assert await sql.fetchval("select count(*) from records") == 2
    assert await sql.fetchval("select count(*) from erasures") == 0
    await sql.execute("update dead_letters set rejected_at = rejected_at - interval '100 days'")
    await sql.execute("update outbox set published_at = now()")
    headrace(settings, "retention", "set", "frames", "30")
    headrace(settings, "retention", "run", "--json")
    assert [row[0] for row in await sql.fetch("select record_id from records")] == [record_id(Kind.FRAME, held.sha256)]
    headrace(settings, "fsck", "--repair", "--json")
    assert await sql.fetchval("select count(*) from dead_letters") == 1

    for hold in holds:
        headrace(settings, "hold", "release", hold["hold_id"])
    headrace(settings, "hold", "release", holds[0]["hold_id"], code=Exit.FAILED)
    listed = headrace(settings, "hold", "ls", "--all", "--json").json
    assert len(listed["holds"]) == 2
    assert all(hold["released_by"] for hold in listed["holds"])
    await erase(settings, "--site", "plant", "--yes")
    assert await sql.fetchval("select (select count(*) from records) + (select count(*) from dead_letters)") == 0


async def test_a_hold_that_is_placed_while_an_erasure_is_interrupted_keeps_the_rest(
    settings: Settings, line: Line, sql: Any
) -> None:
    event = frame(uuid4().hex)
    await line.take(event)
    await erase(settings, event.sha256, "--yes", crash_at="erase_after_begin")
    headrace(settings, "hold", "add", event.sha256, "--reason", "case 12")
    result = await erase(settings, "--resume")
    assert result["erasures"][0]["report"]["kept_by_legal_hold"] == 1
    assert await sql.fetchval("select count(*) from records") == 1
    await line.take(event)
    assert await sql.fetchval("select count(*) from dead_letters") == 0


@pytest.mark.parametrize("change", ["delivered again", "rule removed", "days raised"])
async def test_a_retention_that_goes_on_leaves_what_is_not_past_its_rule_any_more(
    settings: Settings, blobs: Blobs, line: Line, sql: Any, change: str
) -> None:
    event, other = frame(uuid4().hex), frame(uuid4().hex)
    await line.take(event, other)
    await make_older(sql, 40, event.sha256, other.sha256)
    headrace(settings, "retention", "set", "frames", "30")
    headrace(settings, "retention", "run", crash_at="erase_before_commit")
    assert await sql.fetchval("select count(*) from erasure_subjects") == 2
    match change:
        case "delivered again":
            await line.take(event)
        case "rule removed":
            headrace(settings, "retention", "rm", "frames")
        case "days raised":
            headrace(settings, "retention", "set", "frames", "60")
    headrace(settings, "retention", "run")
    left = {row[0] for row in await sql.fetch("select encode(digest, 'hex') from records")}
    assert left == {event.sha256} | ({other.sha256} if change != "delivered again" else set())
    assert await blobs.get(blob_key(event.sha256)) == event.body
    assert await sql.fetchval("select count(*) from erasure_subjects") == 0
    await fsck_is_clean(settings)


async def test_retention_of_nothing_reads_no_topic(
    settings: Settings, line: Line, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    young = frame(uuid4().hex)
    await line.take(young)
    read: list[Settings] = []

    def events(settings: Settings) -> Iterator[list[Any]]:
        read.append(settings)
        return iter(())

    monkeypatch.setattr(report, "_events", events)
    headrace(settings, "retention", "set", "frames", "30")
    result = headrace(settings, "retention", "run", "--json").json
    assert result["erasures"][0]["report"]["in_topics"]["announcements"] == []
    assert (read, await sql.fetchval("select count(*) from erasures where ended_at is not null")) == ([], 1)
    await make_older(sql, 40, young.sha256)
    headrace(settings, "retention", "run")
    assert len(read) == 1


async def test_what_retention_erases_twice_is_in_both_reports(settings: Settings, line: Line, sql: Any) -> None:
    event = frame(uuid4().hex)
    headrace(settings, "retention", "set", "frames", "30")
    for _ in range(2):
        await line.take(event)
        await make_older(sql, 40, event.sha256)
        result = headrace(settings, "retention", "run", "--json").json
        assert result["erasures"][0]["report"]["ids"] == [str(record_id(Kind.FRAME, event.sha256))]


async def test_retention_leaves_a_staged_body_whose_message_may_be_on_its_way(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    whole = frame(uuid4().hex)
    assert whole.body is not None
    claim = staging_key(whole.site, whole.source_id, whole.sha256)
    await line.take(whole)
    await make_older(sql, 40, whole.sha256)
    await blobs.put_stream(claim, once(whole.body))
    headrace(settings, "retention", "set", "frames", "30")
    headrace(settings, "retention", "run")
    assert await blobs.stat(blob_key(whole.sha256)) is None
    await line.take(replace(whole, body=None, claim=claim))
    assert await blobs.get(blob_key(whole.sha256)) == whole.body
