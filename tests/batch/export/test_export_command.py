"""`headrace export` against a real catalog and store."""

import json
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import BlobRow, RecordRow, RowBatch
from headrace.schemas.digest import blob_key, record_id, sha256_hex
from headrace.schemas.events import Kind, PreprocessedFrame
from headrace.schemas.topics import PREPROCESSED
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.exports import PAGE_ROWS, Exports, ExportSelection
from tests.commands import clean_environment, headrace
from tests.servers import own_store
from tests.store.store_rows import batch, record
from tests.streams.consumers.consumer_samples import ResultReader, new_name, results_of
from tests.streams.consumers.consumer_samples import ingest as announce

pytestmark = pytest.mark.stack

FRAMES = 60
LDOS = 40


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A part of the bucket that no other test has."""
    return own_store(settings)


def started(settings: Settings, *args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "headrace", "export", *args, "--json"],
        env=clean_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def export(settings: Settings, *args: str, code: int = 0) -> dict[str, Any]:
    done = headrace(settings, "export", *args, "--json", code=code)
    return done.json or {"error": done.err}


async def ingest(catalog: Catalog, blobs: Blobs) -> dict[str, bytes]:
    """Write frames, LDOs in a pack, and the clip that each second LDO has, as a worker does."""
    bodies = {f"frame-{number}": b"\xff\xd8 picture %d" % number for number in range(FRAMES)}
    bodies |= {f"ldo-{number}": b'{"prediction":{"label":"%d"}}' % number for number in range(LDOS)}
    bodies["clip"] = b"a clip"
    packed, places = pack.build([(sha256_hex(body), body) for name, body in bodies.items() if name.startswith("ldo")])
    await blobs.put("packs/one.tar", packed)
    rows, records = [], []
    for number, (name, body) in enumerate(bodies.items()):
        kind = Kind(name.split("-")[0])
        digest = sha256_hex(body)
        key, offset = f"blobs/{digest}", None
        if kind is Kind.LDO:
            key, offset = "packs/one.tar", places[number - FRAMES][0]
        else:
            await blobs.put(key, body)
        media_type = {Kind.FRAME: "image/jpeg", Kind.CLIP: "video/mp4"}.get(kind, "application/json")
        rows.append(
            BlobRow(
                digest=bytes.fromhex(digest),
                size_bytes=len(body),
                media_type=media_type,
                store_key=key,
                store_offset=offset,
            )
        )
        clip = sha256_hex(b"a clip") if kind is Kind.LDO and number % 2 else None
        records.append(_record(number, kind, digest, media_type, len(body), clip))
    await catalog.commit(RowBatch(blobs=rows, records=records, sightings=[], dead_letters=[]))
    return {sha256_hex(body): body for body in bodies.values()}


def _blob(body: bytes, media_type: str) -> BlobRow:
    digest = sha256_hex(body)
    return BlobRow(
        digest=bytes.fromhex(digest), size_bytes=len(body), media_type=media_type, store_key=blob_key(digest)
    )


def _record(number: int, kind: Kind, digest: str, media_type: str, size: int, clip: str | None) -> RecordRow:
    return record(
        number,
        kind=kind,
        record_id=record_id(kind, digest),
        digest=bytes.fromhex(digest),
        media_type=media_type,
        size_bytes=size,
        clip_sha256=clip,
        source_id=f"cam-{number % 2}",
        ldo_id=f"part-{number}" if kind is Kind.LDO else None,
    )


async def test_shards_in_a_directory_and_in_the_store_are_the_same(
    settings: Settings, catalog: Catalog, blobs: Blobs, tmp_path: Path
) -> None:
    bodies = await ingest(catalog, blobs)
    options = ("--kind", "frames,ldos", "--shard-samples", "16", "--validation", "0.2")
    output = export(settings, "webdataset", str(tmp_path / "out"), *options)
    assert (output["samples"], output["failed"]) == (FRAMES + LDOS, {})
    seen: dict[str, bytes] = {}
    clips = 0
    for shard in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(shard) as tar:
            members = {item.name: tar.extractfile(item).read() for item in tar}  # type: ignore[union-attr]
        for name, data in members.items():
            if name.endswith((".jpg", ".ldo.json")):
                seen[json.loads(members[f"{name.split('.')[0]}.json"])["digest"]] = data
            clips += name.endswith(".mp4")
    assert seen == {digest: body for digest, body in bodies.items() if body != b"a clip"}
    assert clips == LDOS // 2
    remote = f"{settings.store_url}/exports"
    until = ("--until", "2100-01-01T00:00:00")
    assert "in the future" in (export(settings, "webdataset", remote, *options, *until, code=2))["error"]
    stored = export(settings, "webdataset", remote, *options)
    assert stored["splits"] == output["splits"]
    assert (export(settings, "webdataset", remote, *options))["written"] == 0
    assert "another export" in (export(settings, "jsonl", remote, *options, code=2))["error"]


async def test_parquet_of_one_source_says_what_is_lost(
    settings: Settings, catalog: Catalog, blobs: Blobs, tmp_path: Path
) -> None:
    await ingest(catalog, blobs)
    output = export(settings, "parquet", str(tmp_path / "out"), "--source", "cam-1")
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert (len(rows), {row["source_id"] for row in rows}) == (output["samples"], {"cam-1"})
    assert sum(row["clip_digest"] is not None for row in rows) == LDOS // 2
    await blobs.delete("packs/one.tar")
    lost = export(settings, "jsonl", str(tmp_path / "lost"), "--source", "cam-1", code=1)
    assert (len(lost["failed"]), set(lost["failed"].values())) == (LDOS // 2, {"blob_missing"})


async def test_a_command_that_is_killed_goes_on_and_ends_the_same(
    settings: Settings, catalog: Catalog, blobs: Blobs, tmp_path: Path
) -> None:
    await ingest(catalog, blobs)
    command = ("webdataset", "--kind", "frames,ldos", "--shard-samples", "4")
    whole = export(settings, *command, str(tmp_path / "whole"))
    until = ("--until", datetime.fromtimestamp(whole["until_us"] / 1_000_000, UTC).isoformat())  # as it is printed
    out = tmp_path / "out"
    killed = started(settings, *command, str(out), *until)
    assert killed.stderr is not None
    assert "samples, " in killed.stderr.readline()
    killed.kill()
    killed.communicate()
    left = {item.name for item in out.iterdir()}
    assert "_manifest.json" not in left
    assert "_shard-train-000000.tar.json" in left
    output = export(settings, *command, str(out), *until)
    assert 0 < output["written"] < output["shards"] == whole["shards"]
    assert {item.name: item.read_bytes() for item in out.iterdir()} == {
        item.name: item.read_bytes() for item in (tmp_path / "whole").iterdir()
    }


async def test_a_clip_that_comes_later_changes_nothing_of_what_reaches_to_before(
    settings: Settings, catalog: Catalog, blobs: Blobs, tmp_path: Path
) -> None:
    clip, body = b"a clip that comes later", b'{"prediction":{"label":"good"}}'
    digest = sha256_hex(body)
    await blobs.put(blob_key(digest), body)
    await blobs.put(blob_key(sha256_hex(clip)), clip)
    ldo = _record(1, Kind.LDO, digest, "application/json", len(body), sha256_hex(clip))
    await catalog.commit(
        RowBatch(blobs=[_blob(body, "application/json")], records=[ldo], sightings=[], dead_letters=[])
    )
    command = ("webdataset", "--kind", "ldos", "--label", "good")
    before = export(settings, *command, str(tmp_path / "before"))
    row = _record(2, Kind.CLIP, sha256_hex(clip), "video/mp4", len(clip), None)
    await catalog.commit(RowBatch(blobs=[_blob(clip, "video/mp4")], records=[row], sightings=[], dead_letters=[]))
    until = ("--until", datetime.fromtimestamp(before["until_us"] / 1_000_000, UTC).isoformat())
    assert (export(settings, *command, str(tmp_path / "again"), *until))["splits"] == before["splits"]
    after = export(settings, *command, str(tmp_path / "after"))
    assert {name: len(shards) for name, shards in after["splits"].items()} == {
        name: len(shards) for name, shards in before["splits"].items()
    }
    (shard,) = (tmp_path / "after").glob("*.tar")
    with tarfile.open(shard) as tar:
        assert [name.split(".", 1)[1] for name in tar.getnames()] == ["json", "ldo.json", "mp4"]


async def test_quality_is_what_the_preprocessing_consumer_measured(
    settings: Settings, catalog: Catalog, blobs: Blobs, tmp_path: Path
) -> None:
    site = new_name("site")
    noise = np.random.default_rng().integers(0, 256, (9, 8, 8), dtype=np.uint8)
    pictures = [cv2.resize(item, (320, 180), interpolation=cv2.INTER_NEAREST) for item in noise]
    blurred = [cv2.GaussianBlur(item, (0, 0), 1 + number * 3) for number, item in enumerate(pictures)]
    sent = await announce(
        settings, blobs, [*(cv2.imencode(".png", item)[1].tobytes() for item in blurred), b"no picture"], site=site
    )
    await catalog.commit(
        RowBatch(
            blobs=[_blob(await blobs.get(item.store_key), item.media_type) for item in sent],
            records=[
                record(number, record_id=UUID(item.record_id), digest=bytes.fromhex(item.digest), site=site)
                for number, item in enumerate(sent)
            ],
            sightings=[],
            dead_letters=[],
        )
    )
    matches = ResultReader(settings, PREPROCESSED.name, PreprocessedFrame, site)
    await results_of("preprocessing", settings, matches, len(sent))
    measured = {result.record_id: result.sharpness for result in matches.results if result.error is None}
    matches.close()
    bound = sorted(measured.values())[5]
    chosen = {record: sharpness for record, sharpness in measured.items() if sharpness >= bound}
    assert 1 < len(chosen) < len(measured) == len(sent) - 1
    output = export(settings, "jsonl", str(tmp_path / "out"), "--kind", "frames", "--quality", f"sharpness>={bound}")
    rows = [
        json.loads(line) for shard in (tmp_path / "out").glob("*.jsonl") for line in shard.read_bytes().splitlines()
    ]
    assert output["samples"] == len(rows)
    assert {row["record_id"]: row["quality"]["sharpness"] for row in rows} == chosen


async def test_every_record_comes_once_in_the_order_of_the_ids(catalog: Catalog, settings: Settings) -> None:
    number = PAGE_ROWS * 3
    await catalog.commit(batch(range(number)))
    dsn = settings.postgres_dsn.get_secret_value()
    async with Exports.open(dsn) as exports:
        until_us = await exports.settled_until_us()
        result = [item.record.record_id async for item in exports.records(ExportSelection(until_us=until_us))]
        assert result == sorted(result)
        assert len(set(result)) == number
        rest = [
            item.record.record_id
            async for item in exports.records(ExportSelection(until_us=until_us), after=result[700])
        ]
        assert rest == result[701:]
        nothing = [item async for item in exports.records(ExportSelection(until_us=until_us, sites=("elsewhere",)))]
        assert nothing == []


async def test_what_is_still_being_written_lies_behind_the_time_until_which_an_export_reaches(
    catalog: Catalog, settings: Settings
) -> None:
    dsn = settings.postgres_dsn.get_secret_value()
    writing = await asyncpg.connect(dsn)
    async with Exports.open(dsn) as exports:
        async with writing.transaction():
            begun_us = await writing.fetchval("select (extract(epoch from now()) * 1000000)::bigint")
            await catalog.commit(batch(range(3)))
            assert await exports.settled_until_us() <= begun_us
        assert await exports.settled_until_us() > begun_us
    await writing.close()
