"""What is erased is gone from catalog, store and dead letters, stays out, and the report says where it still lies."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from headrace.batch.fetch.client import IngestClient
from headrace.batch.fetch.errors import ErasedError
from headrace.runtime.errors import Exit
from headrace.runtime.receipt_key import ERASURE_AUDIENCE, ReceiptKey, verify
from headrace.runtime.settings import Settings
from headrace.schemas.digest import blob_key, derived_key, erased_key, event_id, record_id, staging_key
from headrace.schemas.events import Frame, Kind
from headrace.store.blobs.blob_store import Blobs, once
from headrace.store.catalog import erasures
from headrace.store.catalog.outbox import Outbox, PublishedEvent
from headrace.streams.worker.group_commit import commit_or_store_again
from tests.batch.batch_samples import Line, cid, frame
from tests.batch.erase.erase_runs import erase, fsck_is_clean
from tests.batch.fetch.file_server import file_server
from tests.batch.fetch.web_servers import picture
from tests.commands import run_in_process

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


async def test_erased_bytes_stay_out_also_from_a_url(settings: Settings, sql: Any) -> None:
    allowed = settings.model_copy(update={"url_networks": "127.0.0.0/8", "url_host_pause_s": 0.0})

    def ingest(url: str) -> UUID:
        with IngestClient(settings=allowed) as client:
            return UUID(client.ingest_url(url)["id"])

    with file_server({"/1.jpg": picture(1), "/2.jpg": picture(2)}.get) as server:
        record = await asyncio.to_thread(ingest, server.url("/1.jpg"))
        await erase(settings, str(record), "--yes")
        with pytest.raises(ErasedError, match="kept out"):
            await asyncio.to_thread(ingest, server.url("/1.jpg"))
        assert await asyncio.to_thread(ingest, server.url("/2.jpg")) != record
    assert await sql.fetchval("select count(*) from records where record_id = $1", record) == 0


async def test_an_erased_record_is_gone_and_the_same_bytes_stay_out(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    erased, other = frame(uuid4().hex), frame(uuid4().hex)
    await line.take(erased, other)
    record = record_id(Kind.FRAME, erased.sha256)
    thumbnail = derived_key(record, "0" * 64)
    await blobs.put_stream(thumbnail, once(b"thumbnail"))
    place = await sql.fetchrow('select topic, partition, "offset" from sightings where record_id = $1', record)

    planned = await erase(settings, str(record), "--dry-run")
    assert planned == {"records": 1, "dead_letters": 0}
    assert await blobs.get(blob_key(erased.sha256)) == erased.body

    result = await erase(settings, str(record), "--yes", "--reason", "asked for")
    [outcome] = result["erasures"]
    claims = verify(outcome["signed"], ReceiptKey.from_settings(settings).keys, ERASURE_AUDIENCE)
    report = claims["report"]
    assert report == outcome["report"]
    assert (report["ids"], report["reason"], report["objects_deleted"]) == ([str(record)], "asked for", 2)
    assert [await blobs.stat(key) for key in (thumbnail, erased_key(other.sha256))] == [None, None]
    assert await blobs.get(erased_key(erased.sha256)) == b""
    assert report["in_topics"]["messages"] == [
        {"topic": place[0], "partition": place[1], "first_offset": place[2], "last_offset": place[2]}
    ]
    assert await blobs.stat(blob_key(erased.sha256)) is None
    for table in ("records", "sightings", "outbox"):
        assert await sql.fetchval(f"select count(*) from {table} where record_id = $1", record) == 0, table

    await line.take(erased, other)
    assert await blobs.stat(blob_key(erased.sha256)) is None
    assert await sql.fetchval("select count(*) from records where record_id = $1", record) == 0
    [letter] = await sql.fetch("select code, key, value, headers, source_id from dead_letters")
    assert tuple(letter) == ("erased", None, None, "[]", erased.source_id)
    assert await blobs.get(blob_key(other.sha256)) == other.body
    await fsck_is_clean(settings)


async def test_a_packed_body_is_blanked_and_its_neighbours_stay_where_they_were(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    events = [cid(uuid4().hex) for _ in range(4)]
    await line.take(*events)
    rows = await sql.fetch(
        "select code, record_id, store_key, store_offset, b.size_bytes from records as r"
        " join blobs as b on sha256 = digest"
    )
    by_code = {row["code"]: row for row in rows}
    [key] = {row["store_key"] for row in rows}
    before = await blobs.get(key)
    gone = {events[1].code, events[2].code}
    await blobs.put_stream(f"quarantine/{key}", once(before))
    await erase(settings, *(str(by_code[code]["record_id"]) for code in gone), "--yes")
    after = await blobs.get(key)
    assert await blobs.stat(f"quarantine/{key}") is None
    assert len(after) == len(before)
    for code, row in by_code.items():
        span = slice(row["store_offset"], row["store_offset"] + row["size_bytes"])
        assert (code.encode() in after) == (code not in gone)
        assert (after[span] == before[span]) == (code not in gone)
    await fsck_is_clean(settings)

    rest = set(by_code) - gone
    await erase(settings, *(str(by_code[code]["record_id"]) for code in rest), "--yes")
    assert await blobs.stat(key) is None


async def test_a_source_is_erased_and_what_another_sent_too_stays_its_own(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    def by(source_id: str, event: Frame, **changes: Any) -> Frame:
        return replace(event, source_id=source_id, **changes)

    shared, own = frame(uuid4().hex), frame(uuid4().hex)
    await line.take(by("camera-1", shared, attributes=b'{"lens":"a"}'), by("camera-2", shared), by("camera-1", own))
    result = await erase(settings, "--site", "plant", "--source", "camera-1", "--yes")
    report = result["erasures"][0]["report"]
    assert (report["records_and_dead_letters"], report["records_kept_for_other_sources"]) == (1, 1)
    assert [tuple(row) for row in await sql.fetch("select source_id, attributes::text from records")] == [
        ("camera-2", "{}")
    ]
    assert [row[0] for row in await sql.fetch("select distinct source_id from sightings")] == ["camera-2"]
    assert await blobs.get(blob_key(shared.sha256)) == shared.body
    assert await blobs.stat(blob_key(own.sha256)) is None

    await line.take(by("camera-1", shared), by("camera-2", own), by("camera-1", own))
    letters = await sql.fetch("select source_id, count(*) from dead_letters where code = 'erased' group by 1")
    assert [tuple(row) for row in letters] == [("camera-1", 2)]
    assert await blobs.get(blob_key(own.sha256)) == own.body
    assert [row[0] for row in await sql.fetch("select source_id from records")] == ["camera-2", "camera-2"]
    await fsck_is_clean(settings)


async def test_an_erased_sites_part_of_a_record_is_gone_and_the_other_sites_stay_theirs(
    settings: Settings, line: Line, sql: Any
) -> None:
    shared = frame(uuid4().hex)
    record = record_id(Kind.FRAME, shared.sha256)
    by = {
        site: replace(shared, site=site, source_id=f"camera-{site}", attributes=b'{"of":"%s"}' % site.encode())
        for site in ("a", "b", "c")
    }
    await line.take(by["a"])
    await line.take(by["b"], by["c"])

    async def parts() -> dict[str, list[tuple[Any, ...]]]:
        queries = {
            "record": "select site, source_id, attributes::text from records",
            "lists": "select s.site from site_records as s join records as r using (record_id) where r.site <> s.site",
            "waiting": "select site from outbox where published_at is null order by id",
        }
        return {name: sorted(map(tuple, await sql.fetch(query)), key=str) for name, query in queries.items()}

    assert await parts() == {
        "record": [("a", "camera-a", '{"of":"a"}')],
        "lists": [("b",), ("c",)],
        "waiting": [("b",), ("c",), (None,)],
    }
    await erase(settings, "--site", "c", "--yes")
    assert (await parts())["waiting"] == [("b",), (None,)]
    await erase(settings, "--site", "a", "--yes")
    assert await parts() == {"record": [("b", "camera-b", '{"of":"b"}')], "lists": [], "waiting": [("b",)]}
    await asyncio.to_thread(run_in_process, settings, "fsck", "--repair", "--json")
    assert (await parts())["waiting"] == [("b",)], "its own announcement is enough"
    await fsck_is_clean(settings)
    await erase(settings, str(record), "--yes")
    assert await parts() == {"record": [], "lists": [], "waiting": []}
    assert await sql.fetchval("select count(*) from site_records") == 0
    known = {row[0] for row in await sql.fetch("select event_id from erased_announcements")}
    assert known == {event_id(record), event_id(record, "b"), event_id(record, "c")}
    await fsck_is_clean(settings)


@pytest.mark.parametrize("published", ["unpublished", "published", "set aside"])
async def test_the_announcement_of_an_erased_part_is_known_and_not_published(
    settings: Settings, line: Line, sql: Any, outbox: Outbox, published: str
) -> None:
    shared = frame(uuid4().hex)
    record = record_id(Kind.FRAME, shared.sha256)
    for site in ("a", "b", "c"):
        await line.take(replace(shared, site=site, attributes=b'{"of":"%s"}' % site.encode()))
    await sql.execute("insert into label_versions values ('v', sha256(''), '{}')")
    await sql.execute("insert into labels (version, record_id, votes, errors) values ('v', $1, '{}', '{}')", record)
    if published != "unpublished":
        aside = "why" if published == "set aside" else None
        await sql.execute("update outbox set published_at = now(), set_aside = $1", aside)
    for site, event in (("b", event_id(record, "b")), ("a", event_id(record))):
        report = (await erase(settings, "--site", site, "--yes"))["erasures"][0]["report"]
        assert (report["records_and_dead_letters"], report["ids"]) == (0, [])
        assert report["records_kept_for_other_sources"] == 1
        noted = await sql.fetch(
            "select event_id from erased_announcements where erasure_id::text = $1", report["erasure_id"]
        )
        assert [row[0] for row in noted] == [event]
        assert await outbox.unknown([PublishedEvent(event, shared.sha256)]) == [], "a relay finds it on the topic"
    left = {row[0] for row in await sql.fetch("select site from outbox")}
    assert left == ({None, "b", "c"} if published == "published" else {"c"})
    assert await sql.fetchval("select count(*) from labels") == 1


async def test_a_record_with_many_sightings_is_erased_in_steps(
    settings: Settings, blobs: Blobs, line: Line, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "SIGHTINGS_MAX", 2)
    often, shared, other = frame(uuid4().hex), frame(uuid4().hex), frame(uuid4().hex)
    for number in range(3):
        await line.take(replace(often, source_id=f"camera-{number}"), replace(shared, source_id=f"camera-{number}"))
    await line.take(replace(shared, site="yard"), other)
    claims = [staging_key("plant", f"camera-{number}", often.sha256) for number in range(3)]
    for claim in claims:
        await blobs.put_stream(claim, once(b"staged"))
    await erase(settings, "--site", "plant", "--yes", crash_at="erase_after_commit")
    assert await sql.fetchval("select count(*) from sightings") == 6
    shown = "select count(*) from records as r where not exists (select from sightings where record_id = r.record_id)"
    assert await sql.fetchval(shown) == 0
    await line.take(often)
    assert await sql.fetchval("select code from dead_letters") == "erased", "the first step keeps it out already"
    await sql.execute("update collecting set marked_at = marked_at - interval '1 hour'")

    [outcome] = (await erase(settings, "--resume"))["erasures"]
    report = outcome["report"]
    assert (report["records_and_dead_letters"], report["records_kept_for_other_sources"]) == (2, 1)
    messages = report["in_topics"]["messages"]
    assert sum(item["last_offset"] - item["first_offset"] + 1 for item in messages) == 7
    assert [tuple(row) for row in await sql.fetch("select site, source_id from records")] == [("yard", "camera-1")]
    assert await sql.fetchval("select count(*) from sightings") == 1
    assert [await blobs.stat(key) for key in (*claims, blob_key(often.sha256))] == [None] * 4
    assert await blobs.get(blob_key(shared.sha256)) == shared.body
    await fsck_is_clean(settings)


async def test_a_worker_that_had_stored_the_bytes_before_commits_them_no_more(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    first, new = frame(uuid4().hex), frame(uuid4().hex)
    await line.take(first)
    ingest = line.ingest()
    decoded = await ingest.decode(Kind.FRAME, line.published(first, new))
    stored = await ingest.store_bodies(decoded)
    await erase(settings, first.sha256, "--yes")
    committed = await commit_or_store_again(ingest, stored)
    assert [rejection.code for rejection in committed.batch.rejected] == ["erased"]
    assert committed.result.new_records == {record_id(Kind.FRAME, new.sha256)}
    assert await sql.fetchval("select count(*) from records") == 1
    assert await blobs.stat(blob_key(first.sha256)) is None
    await fsck_is_clean(settings)


async def test_bytes_that_come_again_and_again_while_they_are_erased_stay_out(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    events = [frame(f"{number} {uuid4().hex}") for number in range(20)]
    await line.take(*events)
    ended = asyncio.Event()

    async def ingest_again() -> None:
        while not ended.is_set():
            await line.take(*events)

    ingesting = asyncio.create_task(ingest_again())
    await erase(settings, *(event.sha256 for event in events), "--yes")
    ended.set()
    await ingesting
    await line.take(*events)
    for table in ("records", "sightings", "blobs"):
        assert await sql.fetchval(f"select count(*) from {table}") == 0, table
    # A worker may have put an object just before it was refused: it has no row, and is collected as an orphan.
    await asyncio.sleep(1.1)  # times of objects may be whole seconds
    result = await asyncio.to_thread(run_in_process, settings, "fsck", "--repair", "--force", "--json")
    assert set(result.json["findings"]) <= {"object_without_row"}
    assert [await blobs.stat(blob_key(event.sha256)) for event in events] == [None] * 20


async def test_the_dead_letters_of_a_site_are_erased_and_their_bytes_stay_out(
    settings: Settings, line: Line, sql: Any
) -> None:
    bad = frame(uuid4().hex, width=5)
    await line.take(bad)
    [letter] = await sql.fetch("select dead_letter_id, code, value from dead_letters")
    assert (letter["code"], letter["value"] is None) == ("image_mismatch", False)
    planned = await erase(settings, "--site", "plant", "--dry-run")
    assert planned == {"records": 0, "dead_letters": 1}
    await erase(settings, "--site", "plant", "--yes")
    assert await sql.fetchval("select count(*) from dead_letters") == 0
    await line.take(bad)
    [again] = await sql.fetch("select code, value from dead_letters")
    assert tuple(again) == ("erased", None)


async def test_a_staged_body_that_comes_again_is_neither_promoted_nor_left_in_staging(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    whole = frame(uuid4().hex)
    assert whole.body is not None
    claim = staging_key(whole.site, whole.source_id, whole.sha256)
    staged = replace(whole, body=None, claim=claim)
    await line.take(whole)
    await blobs.put_stream(claim, once(whole.body))
    await erase(settings, whole.sha256, "--yes")
    assert await blobs.stat(claim) is None, "what a worker had left in staging goes too"
    await blobs.put_stream(claim, once(whole.body))
    ingest = line.ingest()
    decoded = await ingest.decode(Kind.FRAME, line.published(staged))
    committed = await commit_or_store_again(ingest, await ingest.store_bodies(decoded))
    await ingest.discard_claims(committed.batch)
    assert await sql.fetchval("select code from dead_letters") == "erased"
    assert await blobs.stat(claim) is None
    assert await blobs.stat(blob_key(whole.sha256)) is None


async def test_nothing_is_erased_without_confirmation(settings: Settings, line: Line, sql: Any) -> None:
    event = frame(uuid4().hex)
    await line.take(event)
    for args in ([event.sha256], [], ["--source", "camera-1"], [event.sha256, "--site", "plant"], ["--site", ""]):
        await erase(settings, *args, code=Exit.USAGE)
    assert await sql.fetchval("select count(*) from records") == 1
