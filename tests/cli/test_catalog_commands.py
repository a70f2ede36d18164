"""`headrace ls`, `show`, `get` and `outbox` against a catalog with a few records."""

import asyncio
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import BlobRow, RecordRow, RowBatch, SightingRow
from headrace.schemas.digest import blob_key, pack_key, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.outbox import Outbox
from tests.cli.command_runs import Command
from tests.processes import environment_of, free_port

TIME_US = 1_790_000_000_000_000
PICTURE = b"\x89PNG\r\n\x1a\n and so on"
SAID = orjson.dumps({"ldo_id": "L-1", "context": {}})
SCAN = orjson.dumps({"code": "C-1"})


@dataclass(frozen=True)
class Filled:
    """A catalog and a store with a frame of three sightings, an LDO and a scan in a pack."""

    settings: Settings
    blobs: Blobs
    frame: str
    ldo: str
    scan: str


def row(kind: Kind, body: bytes, number: int, **own: Any) -> RecordRow:
    digest = sha256_hex(body)
    given: dict[str, Any] = {
        "record_id": record_id(kind, digest),
        "kind": kind,
        "digest": bytes.fromhex(digest),
        "site": "plant",
        "source_id": "camera-1",
        "captured_at_us": TIME_US,
        "sequence": number,
        "media_type": "application/json",
        "size_bytes": len(body),
    }
    return RecordRow(**(given | own))


def sighting(record: RecordRow, offset: int) -> SightingRow:
    return SightingRow(
        topic=f"edge.{record.kind}s.v1",
        partition=0,
        offset=offset,
        record_id=record.record_id,
        site=record.site,
        source_id=record.source_id,
        captured_at_us=record.captured_at_us,
        sequence=record.sequence,
    )


async def fill(settings: Settings, blobs: Blobs) -> Filled:
    records = {
        PICTURE: row(Kind.FRAME, PICTURE, 1, media_type="image/png", width=4, height=3, attributes=b'{"lens": 3}'),
        SAID: row(Kind.LDO, SAID, 2, ldo_id="L-1", source_id="device-1"),
        SCAN: row(Kind.CID, SCAN, 3, code="C-1", site="elsewhere"),
    }
    await blobs.put(blob_key(sha256_hex(PICTURE)), PICTURE, media_type="image/png")
    tar, places = pack.build([(sha256_hex(body), body) for body in (SAID, SCAN)])
    await blobs.put(pack_key(sha256_hex(tar)), tar, media_type="application/x-tar")
    stored = {PICTURE: (blob_key(sha256_hex(PICTURE)), None)}
    stored |= {body: (pack_key(sha256_hex(tar)), place[0]) for body, place in zip((SAID, SCAN), places, strict=True)}
    rows = [
        BlobRow(
            digest=record.digest,
            size_bytes=record.size_bytes,
            media_type=record.media_type,
            store_key=stored[body][0],
            store_offset=stored[body][1],
        )
        for body, record in records.items()
    ]
    seen = [sighting(record, 0) for record in records.values()]
    seen += [replace(sighting(records[PICTURE], offset), source_id=f"camera-{offset}") for offset in (1, 2)]
    catalog = await Catalog.open(settings.postgres_dsn.get_secret_value())
    try:
        for record in records.values():  # one after another, so that there is a newest
            await catalog.commit(RowBatch(blobs=rows, records=[record], sightings=[], dead_letters=[]))
        await catalog.commit(RowBatch(blobs=[], records=list(records.values()), sightings=seen, dead_letters=[]))
    finally:
        await catalog.close()
    ids = [str(record.record_id) for record in records.values()]
    return Filled(settings, blobs, *ids)


@pytest.fixture(scope="module")
def filled(module_settings: Settings) -> Filled:
    return asyncio.run(fill(module_settings, Blobs.from_settings(module_settings)))


@pytest.fixture
def stocked(filled: Filled, command: Command, monkeypatch: pytest.MonkeyPatch) -> Filled:
    """The settings of the stack in the environment, as an operator would have them."""
    for name, value in environment_of(filled.settings).items():
        monkeypatch.setenv(name, value)
    return filled


@pytest.mark.stack
def test_ls_lists_the_newest_first_and_counts_everything(command: Command, stocked: Filled) -> None:
    page = command("ls", "--json").json
    assert [record["record_id"] for record in page["records"]] == [stocked.scan, stocked.ldo, stocked.frame]
    assert page["cursor"] is None
    assert page["counts"]["records"] == {"cid": 1, "frame": 1, "clip": 0, "ldo": 1}
    assert page["counts"]["sightings"] == 5
    assert page["records"][2]["attributes"] == {"lens": 3}


@pytest.mark.stack
def test_ls_is_a_table_for_people_and_says_how_many_there_are(command: Command, stocked: Filled) -> None:
    ended = command("ls")
    assert ended.code == Exit.OK
    lines = ended.out.decode().splitlines()
    assert lines[0].split() == ["record", "kind", "site", "source", "captured", "(UTC)", "bytes", "what"]
    shown = [line.split()[0] for line in lines[1:]]
    assert [len(id_) for id_ in shown] == [8, 8, 8]
    assert [command("show", id_, "--json").json["record"]["record_id"] for id_ in shown] == [
        stocked.scan,
        stocked.ldo,
        stocked.frame,
    ]
    assert max(map(len, lines)) <= 80
    assert "5 sightings" in ended.err


@pytest.mark.stack
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--kind", "frames"), ["frame"]),
        (("--kind", "frame,ldos"), ["ldo", "frame"]),
        (("--source", "device-1"), ["ldo"]),
        (("--site", "elsewhere"), ["cid"]),
        (("--site", "nowhere"), []),
    ],
)
@pytest.mark.usefixtures("stocked")
def test_ls_shows_only_what_is_asked_for(command: Command, args: tuple[str, ...], expected: list[str]) -> None:
    assert [record["kind"] for record in command("ls", "--json", *args).json["records"]] == expected


@pytest.mark.stack
def test_ls_goes_on_where_the_page_before_ended(command: Command, stocked: Filled) -> None:
    seen: list[str] = []
    cursor: tuple[str, ...] = ()
    for _ in range(4):
        page = command("ls", "--json", "--limit", "1", *cursor).json
        seen += [record["record_id"] for record in page["records"]]
        if page["cursor"] is None:
            break
        cursor = ("--cursor", page["cursor"])
    assert seen == [stocked.scan, stocked.ldo, stocked.frame]


@pytest.mark.stack
@pytest.mark.usefixtures("stocked")
def test_a_cursor_that_is_none_is_wrong_use(command: Command) -> None:
    ended = command("ls", "--cursor", "nonsense")
    assert ended.code == Exit.USAGE
    assert "hint: use the cursor that the previous page printed" in ended.err


@pytest.mark.stack
def test_show_finds_a_record_by_anything_that_names_it(command: Command, stocked: Filled) -> None:
    digest = sha256_hex(PICTURE)
    for wanted in (stocked.frame, stocked.frame[:8], stocked.frame.upper(), digest, digest[:12]):
        detail = command("show", wanted, "--json").json
        assert detail["record"]["record_id"] == stocked.frame
        assert [sighting["source_id"] for sighting in detail["sightings"]] == ["camera-1", "camera-1", "camera-2"]
    assert command("show", "L-1", "--json").json["record"]["record_id"] == stocked.ldo
    assert command("show", "C-1", "--json").json["record"]["record_id"] == stocked.scan
    public = f"ldo_{sha256_hex(SAID)[:12]}_{TIME_US // 1_000_000}"
    assert command("show", public, "--json").json["record"]["record_id"] == stocked.ldo


@pytest.mark.stack
@pytest.mark.usefixtures("stocked")
def test_show_is_readable_by_people(command: Command) -> None:
    out = command("show", "C-1").out.decode()
    assert re.search(r"code\s+C-1", out)
    assert "edge.cids.v1/0@0" in out
    assert re.search(r"captured_at\s+2026-09-21T14:13:20Z", out)
    assert "_us" not in out


@pytest.mark.stack
@pytest.mark.parametrize("name", ["show", "get"])
@pytest.mark.usefixtures("stocked")
def test_what_is_not_there_is_named_and_ends_with_1(command: Command, name: str) -> None:
    ended = command(name, "f" * 64)
    assert ended.code == Exit.FAILED
    assert "record_missing: " in ended.err
    assert "hint: " in ended.err
    assert ended.out == b""


@pytest.mark.stack
@pytest.mark.usefixtures("stocked")
def test_get_gives_exactly_the_bytes(command: Command, tmp_path: Path) -> None:
    assert command("get", sha256_hex(PICTURE)).out == PICTURE
    assert command("get", "L-1").out == SAID
    assert command("get", "C-1").out == SCAN
    written = tmp_path / "picture.png"
    ended = command("get", sha256_hex(PICTURE), "-o", str(written))
    assert (ended.code, ended.out) == (Exit.OK, b"")
    assert written.read_bytes() == PICTURE


def test_get_refuses_a_terminal(command: Command, nowhere: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    ended = command("get", "C-1")
    assert (ended.code, ended.out) == (Exit.USAGE, b"")
    assert "hint: add -o FILE" in ended.err


@pytest.mark.stack
@pytest.mark.usefixtures("stocked")
def test_a_file_that_cannot_be_written_is_named(command: Command, tmp_path: Path) -> None:
    ended = command("get", "C-1", "-o", str(tmp_path / "no" / "such" / "folder"))
    assert ended.code == Exit.USAGE
    assert "cannot write: No such file or directory" in ended.err


@pytest.mark.stack
def test_bytes_that_are_gone_or_changed_are_never_given_as_the_record(command: Command, stocked: Filled) -> None:
    body = PICTURE + uuid4().bytes
    digest = sha256_hex(body)
    key = blob_key(digest)

    async def enter() -> None:
        record = row(Kind.FRAME, body, 9, media_type="image/png")
        blob = BlobRow(digest=record.digest, size_bytes=len(body), media_type="image/png", store_key=key)
        catalog = await Catalog.open(stocked.settings.postgres_dsn.get_secret_value())
        try:
            await catalog.commit(RowBatch(blobs=[blob], records=[record], sightings=[], dead_letters=[]))
        finally:
            await catalog.close()

    async def store(data: bytes) -> None:
        async def chunks() -> Any:
            yield data

        await stocked.blobs.put_stream(key, chunks())

    asyncio.run(enter())
    try:
        gone = command("get", digest)
        assert (gone.code, gone.out) == (Exit.FAILED, b"")
        assert "blob_missing: " in gone.err
        asyncio.run(store(body[:-1] + b"?"))
        changed = command("get", digest)
        assert (changed.code, changed.out) == (Exit.FAILED, b"")
        assert digest in changed.err
        asyncio.run(store(body))
        assert command("get", digest).out == body
    finally:
        forget(stocked.settings, digest)


def forget(settings: Settings, digest: str) -> None:
    """Take a record out again, since the tests of the lists count."""
    import psycopg

    with psycopg.connect(settings.postgres_dsn.get_secret_value(), autocommit=True) as connection:
        connection.execute("delete from records where digest = %s", [bytes.fromhex(digest)])


@pytest.mark.stack
@pytest.mark.usefixtures("stocked")
def test_a_store_that_is_away_is_named_and_ends_with_3(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("HEADRACE_STORE_ENDPOINT", f"http://127.0.0.1:{port}")
    ended = command("get", "C-1")
    assert ended.code == Exit.UNREACHABLE
    assert f"127.0.0.1:{port}" in ended.err
    assert ended.out == b""


@pytest.mark.stack
def test_outbox_lists_what_is_set_aside_and_retries_it(command: Command, stocked: Filled) -> None:
    async def set_aside() -> None:
        outbox = await Outbox.open(stocked.settings.postgres_dsn.get_secret_value())
        try:
            # Records that other tests took out again left announcements without an event.
            [frame] = [row for row in await outbox.pending("ingested.frames.v1", 10) if row.event is not None]
            await outbox.set_aside({frame.outbox_id: "too large"})
        finally:
            await outbox.close()

    asyncio.run(set_aside())
    listed = command("outbox")
    assert (listed.code, "too large" in listed.out.decode(), stocked.frame[:8] in listed.out.decode()) == (
        1,
        True,
        True,
    )
    assert [row["why"] for row in command("outbox", "--json").json["set_aside"]] == ["too large"]
    assert command("outbox", "--retry", "--json").json["retried"] == 1
    assert command("outbox", "--json").json == {"set_aside": [], "count": 0}
