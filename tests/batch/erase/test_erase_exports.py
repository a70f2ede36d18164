"""The report of an erasure names the exports that can hold what was erased, to the shard."""

import json
import socket
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from headrace.runtime.settings import Settings
from headrace.schemas.digest import record_id, sha256_hex
from headrace.schemas.events import Clip, Kind
from tests.batch.archive.archive_samples import ldo
from tests.batch.batch_samples import CAPTURED_AT_US, Line, frame
from tests.batch.erase.erase_runs import erase
from tests.commands import headrace
from tests.streams.streams_samples import mp4

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


def shards_with(target: Path, record: UUID) -> list[str]:
    """The shards that a reader finds a record in."""
    return sorted(path.name for path in target.iterdir() if path.suffix == ".jsonl" and str(record) in path.read_text())


def export(settings: Settings, target: object, *options: str, format_: str = "jsonl") -> None:
    headrace(settings, "export", format_, str(target), "--shard-samples", "2", "--validation", "0.3", *options)


async def in_exports(settings: Settings, *args: str) -> dict[str, dict[str, Any]]:
    """Erase, and return what the report says of exports, by target."""
    [outcome] = (await erase(settings, *args, "--yes"))["erasures"]
    return {item["target"].partition(" at ")[0]: item for item in outcome["report"]["in_exports"]}


async def test_an_export_is_named_with_the_shard_that_holds_what_is_erased(
    settings: Settings, line: Line, sql: Any, tmp_path: Path
) -> None:
    events = [frame(uuid4().hex) for _ in range(12)]
    yard = replace(frame(uuid4().hex), site="yard", captured_at_us=CAPTURED_AT_US + 3_600_000_000)
    await line.take(*events, yard)
    stored = f"{settings.store_url}/exports/all"
    export(settings, tmp_path / "all")
    export(settings, tmp_path / "plant", "--site", "plant")
    export(settings, tmp_path / "scanner", "--site", "plant", "--source", "scanner-1")
    export(settings, tmp_path / "later", "--from", "2026-09-21T15:00:00")
    export(settings, stored, "--kind", "frames", "--to", "2026-10-01")
    for event in events[:4]:
        record = record_id(Kind.FRAME, event.sha256)
        named = await in_exports(settings, str(record))
        expected = shards_with(tmp_path / "all", record)
        assert len(expected) == 1
        assert {target: item["shards"] for target, item in named.items()} == {
            str(tmp_path / "all"): expected,
            str(tmp_path / "plant"): shards_with(tmp_path / "plant", record),
            stored: expected,
        }
        assert {item["host"] for item in named.values()} == {socket.gethostname(), None}
        assert all(item["complete"] and item["shards_total"] == 1 for item in named.values())
    assert set(await in_exports(settings, "--site", "yard")) == {str(tmp_path / "all"), str(tmp_path / "later"), stored}
    assert await sql.fetchval("select count(*) from erasure_exports") == 0

    again = tmp_path / "again"
    export(settings, again)
    assert await in_exports(settings, events[5].sha256)
    assert str(again) in await in_exports(settings, events[6].sha256)
    kept = frame(uuid4().hex)
    await line.take(kept)
    assert await in_exports(settings, kept.sha256) == {}, "it came after each of them"


async def test_a_part_that_another_source_keeps_is_named_too(
    settings: Settings, line: Line, sql: Any, tmp_path: Path
) -> None:
    shared = frame(uuid4().hex)
    await line.take(shared, replace(shared, source_id="camera-2"))
    await sql.execute("update outbox set published_at = now()")
    export(settings, tmp_path / "first", "--source", "camera-1")
    export(settings, tmp_path / "other", "--source", "camera-3")
    named = await in_exports(settings, "--site", "plant", "--source", "camera-1")
    assert list(named) == [str(tmp_path / "first")]
    named = await in_exports(settings, shared.sha256)
    assert str(tmp_path / "first") in named, "it still has the bytes"


async def test_an_export_that_has_not_ended_is_named_without_the_shard_that_it_was_writing(
    settings: Settings, line: Line, sql: Any, tmp_path: Path
) -> None:
    event = frame(uuid4().hex)
    await line.take(event)
    target = tmp_path / "out"
    export(settings, target)
    await sql.execute("update export_runs set ended_at = null")
    await sql.execute("delete from export_shards")
    named = await in_exports(settings, event.sha256)
    assert [(item["complete"], item["shards"]) for item in named.values()] == [(False, [])]

    other = frame(uuid4().hex)
    await line.take(other)
    for path in target.iterdir():
        path.unlink()
    export(settings, target)
    export(settings, target, "--until", until_of(target))
    named = await in_exports(settings, other.sha256)
    assert [(item["complete"], item["shards_total"]) for item in named.values()] == [(True, 1)]


async def test_the_clip_of_an_exported_ldo_is_in_its_shard(settings: Settings, line: Line, tmp_path: Path) -> None:
    body = mp4(duration_ms=1000)
    digest = sha256_hex(body)
    clip = Clip(
        source_id="camera-1",
        site="plant",
        captured_at_us=CAPTURED_AT_US,
        sequence=1,
        sha256=digest,
        media_type="video/mp4",
        duration_us=1_000_000,
        size_bytes=len(body),
        body=body,
    )
    await line.take(clip)
    await line.take(*(replace(ldo(number, uuid4().hex), clip_sha256=digest) for number in range(3)))
    export(settings, tmp_path / "tar", "--kind", "ldos", format_="webdataset")
    export(settings, tmp_path / "lines", "--kind", "ldos")
    named = await in_exports(settings, str(record_id(Kind.CLIP, digest)))
    holding = sorted(path.name for path in (tmp_path / "tar").glob("*.tar") if _has_video(path))
    assert {target: item["shards"] for target, item in named.items()} == {str(tmp_path / "tar"): holding}


def until_of(target: Path) -> str:
    until_us = json.loads((target / "_manifest.json").read_text())["request"]["selection"]["until_us"]
    return datetime.fromtimestamp(until_us / 1_000_000, UTC).isoformat()


def _has_video(path: Path) -> bool:
    with tarfile.open(path) as tar:
        return any(name.endswith(".mp4") for name in tar.getnames())
