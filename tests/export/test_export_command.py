"""`headrace export` against a real catalog and store."""

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from runtime.kafka import client_config
from runtime.settings import Settings
from schemas.codec import encode
from schemas.digest import sha256_hex
from schemas.events import Kind, PreprocessedFrame
from schemas.topics import PREPROCESSED
from store import pack
from store.blobs import Blobs
from store.catalog import Catalog
from store.exports import PAGE_ROWS, Exports, Wanted
from store.rows import Batch, BlobRow, RecordRow
from tests.conftest import environment_of
from tests.store.store_rows import batch, record

pytestmark = pytest.mark.stack

FRAMES = 60
LDOS = 40


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A part of the bucket that no other test has."""
    return settings.model_copy(update={"store_url": f"{settings.store_url}/{uuid4().hex}"})


def export(settings: Settings, *args: str, code: int = 0) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "export", *args, "--json"],
        env=env | environment_of(settings), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1])) if done.stdout else {"error": done.stderr}


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
        rows.append(BlobRow(digest=bytes.fromhex(digest), size_bytes=len(body), media_type=media_type, store_key=key,
                            store_offset=offset))  # fmt: skip
        clip = sha256_hex(b"a clip") if kind is Kind.LDO and number % 2 else None
        records.append(_record(number, kind, digest, media_type, len(body), clip))
    await catalog.commit(Batch(blobs=rows, records=records, sightings=[], dead_letters=[]))
    return {sha256_hex(body): body for body in bodies.values()}


def _record(number: int, kind: Kind, digest: str, media_type: str, size: int, clip: str | None) -> RecordRow:
    from schemas.digest import record_id

    return record(
        number, kind=kind, record_id=record_id(kind, digest), digest=bytes.fromhex(digest), media_type=media_type,
        size_bytes=size, clip_sha256=clip, source_id=f"cam-{number % 2}",
        ldo_id=f"part-{number}" if kind is Kind.LDO else None,
    )  # fmt: skip


async def test_shards_in_a_directory_and_in_the_store_are_the_same(
    settings: Settings, catalog: Catalog, blobs: Blobs, tmp_path: Path
) -> None:
    bodies = await ingest(catalog, blobs)
    options = ("--kind", "frames,ldos", "--shard-samples", "16", "--validation", "0.2")
    said = export(settings, "webdataset", str(tmp_path / "out"), *options)
    assert (said["samples"], said["failed"]) == (FRAMES + LDOS, {})
    seen: dict[str, bytes] = {}
    clips = 0
    for shard in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(shard) as tar:
            members = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
        for name, data in members.items():
            if name.endswith((".jpg", ".ldo.json")):
                seen[json.loads(members[f"{name.split('.')[0]}.json"])["digest"]] = data
            clips += name.endswith(".mp4")
    assert seen == {digest: body for digest, body in bodies.items() if body != b"a clip"}
    assert clips == LDOS // 2
    remote = f"{settings.store_url}/exports"
    until = ("--until", "2100-01-01T00:00:00")
    assert "lies ahead" in export(settings, "webdataset", remote, *options, *until, code=2)["error"]
    there = export(settings, "webdataset", remote, *options)
    assert there["splits"] == said["splits"]
    assert export(settings, "webdataset", remote, *options)["written"] == 0
    assert "another export" in export(settings, "jsonl", remote, *options, code=2)["error"]


async def test_parquet_of_one_source_says_what_is_lost(
    settings: Settings, catalog: Catalog, blobs: Blobs, tmp_path: Path
) -> None:
    await ingest(catalog, blobs)
    said = export(settings, "parquet", str(tmp_path / "out"), "--source", "cam-1")
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert (len(rows), {row["source_id"] for row in rows}) == (said["samples"], {"cam-1"})
    assert sum(row["clip_digest"] is not None for row in rows) == LDOS // 2
    await blobs.delete("packs/one.tar")
    lost = export(settings, "jsonl", str(tmp_path / "lost"), "--source", "cam-1", code=1)
    assert (len(lost["failed"]), set(lost["failed"].values())) == (LDOS // 2, {"blob_missing"})


async def test_quality_is_taken_from_what_preprocessing_published(
    settings: Settings, catalog: Catalog, blobs: Blobs, tmp_path: Path
) -> None:
    await ingest(catalog, blobs)
    async with Exports.open(settings.postgres_dsn.get_secret_value()) as exports:
        wanted = Wanted(until_us=(time.time_ns() // 1000) + 60_000_000, kinds=(Kind.FRAME,))
        frames = [one.record async for one in exports.records(wanted)]
    producer = Producer(client_config(settings, acks="all"))
    for number, frame in enumerate(frames):
        event = PreprocessedFrame(
            event_id=str(uuid4()), record_id=str(frame.record_id), digest=frame.digest, source_id="cam", site="plant",
            captured_at_us=1, sequence=1, width=640, height=480, sharpness=float(number), brightness=0.5,
            dark_share=0.1, bright_share=0.1, perceptual_hash="0" * 16, thumbnail_sha256="", thumbnail_key="",
            thumbnail_width=0, thumbnail_height=0,
        )  # fmt: skip
        producer.produce(PREPROCESSED.name, encode(event), b"cam")
    assert producer.flush(30) == 0
    said = export(settings, "jsonl", str(tmp_path / "out"), "--kind", "frames", "--quality", "sharpness>=50")
    rows = [
        json.loads(line) for shard in (tmp_path / "out").glob("*.jsonl") for line in shard.read_bytes().splitlines()
    ]
    assert said["samples"] == len(rows) == FRAMES - 50
    assert {UUID(row["record_id"]) for row in rows} == {one.record_id for one in frames[50:]}
    assert min(row["quality"]["sharpness"] for row in rows) == 50


async def test_every_record_comes_once_in_the_order_of_the_ids(catalog: Catalog, settings: Settings) -> None:
    number = PAGE_ROWS * 3
    await catalog.commit(batch(range(number)))
    dsn = settings.postgres_dsn.get_secret_value()
    async with Exports.open(dsn) as exports:
        until_us = await exports.settled_until_us()
        found = [one.record.record_id async for one in exports.records(Wanted(until_us=until_us))]
        assert found == sorted(found)
        assert len(set(found)) == number
        rest = [one.record.record_id async for one in exports.records(Wanted(until_us=until_us), after=found[700])]
        assert rest == found[701:]
        nothing = [one async for one in exports.records(Wanted(until_us=until_us, sites=("elsewhere",)))]
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
