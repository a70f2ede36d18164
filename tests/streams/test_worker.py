"""Real workers on a real stack: bad input is kept as a dead letter, and everything around it goes through."""

import asyncio
import base64
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, Producer

from headrace.producers import Publisher, SpooledPublisher
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.digest import blob_key, canonical_body, sha256_hex, staging_key
from headrace.schemas.events import Frame, Kind, Ldo
from headrace.schemas.limits import INLINE_BYTES_MAX, KIB
from headrace.store.blobs import staging
from tests.processes import ServiceProcess, free_port
from tests.streams.streams_batches import publish
from tests.streams.streams_samples import cid, clip, frame, ldo, mp4, png
from tests.streams.streams_world import ARRIVES_S_MAX, Sent, World
from tests.waiting import until

pytestmark = pytest.mark.stack

KINDS = {"small": "cids,ldos", "large": "frames,clips"}
NEEDS = ("kafka", "kafka_group", "postgres", "store")
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@pytest.fixture(scope="module")
def workers(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServiceProcess]]:
    logs = tmp_path_factory.mktemp("workers")
    started = {
        name: ServiceProcess(module_settings, "worker", "--kinds", kinds, log=logs / f"{name}.log")
        for name, kinds in KINDS.items()
    }
    try:
        for process in started.values():
            process.wait_ready()
        yield started
    finally:
        codes = {name: process.stop() for name, process in started.items()}
    assert codes == dict.fromkeys(KINDS, 0)


@pytest.fixture(scope="module")
def world(module_settings: Settings, workers: dict[str, ServiceProcess]) -> Iterator[World]:
    with closing(World(module_settings)) as opened:
        yield opened


@dataclass(frozen=True)
class Bad:
    """A message that can never be ingested, and the code that says why."""

    code: str
    kind: Kind
    value: bytes | None


def changed(event: Any, **changes: Any) -> Any:
    return replace(event, **changes)


NO_PREDICTION = orjson.dumps({"sensor_data": {}, "context": {}})
CID_HEAD = encode(cid())[:5]
BAD_INPUT = {
    "undecodable bytes": Bad("undecodable", Kind.CID, CID_HEAD + b"\xff" * 30),
    "a string of 2^60 bytes": Bad("undecodable", Kind.CID, CID_HEAD + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x1f"),
    "a string of negative length": Bad("undecodable", Kind.FRAME, encode(frame())[:5] + b"\x01"),
    "not framed at all": Bad("not_framed", Kind.FRAME, b'{"source_id": "camera-1"}'),
    "an unknown magic byte": Bad("not_framed", Kind.LDO, b"\x01" + encode(ldo())[1:]),
    "an empty value": Bad("not_framed", Kind.CLIP, b""),
    "an unknown schema id": Bad("unknown_schema", Kind.FRAME, b"\x00\x00\x00\x00\x07" + encode(frame())[5:]),
    "a schema id of 2^31": Bad("unknown_schema", Kind.CID, b"\x00\x80\x00\x00\x00" + encode(cid())[5:]),
    "another topic's event": Bad("wrong_event", Kind.FRAME, encode(cid())),
    "a null value": Bad("empty_value", Kind.FRAME, None),
    "a null value among small events": Bad("empty_value", Kind.CID, None),
    "a missing field of a scan": Bad("missing_field", Kind.CID, encode(cid(""))),
    "a missing part of an LDO": Bad("missing_field", Kind.LDO, encode(ldo(body=NO_PREDICTION))),
    "neither body nor claim": Bad("missing_field", Kind.FRAME, encode(changed(frame(), body=None))),
    "a digest that differs from the body": Bad("digest_mismatch", Kind.FRAME, encode(frame(sha256="0" * 64))),
    "a clip's digest that differs": Bad("digest_mismatch", Kind.CLIP, encode(clip(sha256="f" * 64))),
    "a digest that is none": Bad("malformed_digest", Kind.FRAME, encode(frame(sha256="../" * 21 + "a"))),
    "a body over the limit": Bad("too_large", Kind.FRAME, encode(frame(png(padding_bytes=INLINE_BYTES_MAX)))),
    "a body of another size": Bad("size_mismatch", Kind.FRAME, encode(frame(size_bytes=1))),
    "no image": Bad("not_an_image", Kind.FRAME, encode(frame(b"GIF89a" + bytes(64), width=1, height=1))),
    "another image than declared": Bad("image_mismatch", Kind.FRAME, encode(frame(width=640, height=480))),
    "no video": Bad("not_a_video", Kind.CLIP, encode(clip(b"#EXTM3U\nfile:///etc/passwd\n"))),
    "a time of 1969": Bad("absurd_time", Kind.FRAME, encode(frame(captured_at_us=-1))),
    "a time of the year 9999": Bad("absurd_time", Kind.CID, encode(cid(captured_at_us=253_370_764_800_000_000))),
    "a negative time": Bad("absurd_time", Kind.LDO, encode(ldo(captured_at_us=-(2**63)))),
    "a name that moves the cursor": Bad("field_out_of_range", Kind.CID, encode(cid(source_id="a\x1b[2J\nb\0"))),
    "JSON that is none": Bad("not_json", Kind.LDO, encode(ldo(body=b'{"a": 1e400}'))),
    "a claim on nothing": Bad(
        "claim_missing",
        Kind.FRAME,
        encode(changed(frame(png(shade=250)), body=None, claim=staging_key("plant", "camera-1", "f" * 64))),
    ),
    "a claim on a blob": Bad("claim_refused", Kind.CLIP, encode(changed(clip(), body=None, claim=blob_key("0" * 64)))),
    "a claim that no store takes": Bad(
        "claim_refused", Kind.FRAME, encode(changed(frame(), body=None, claim=staging_key("plant", "camera-1", "a//b")))
    ),
}
GOOD: dict[Kind, Callable[..., Any]] = {Kind.CID: cid, Kind.FRAME: frame, Kind.CLIP: clip, Kind.LDO: ldo}


HEADERS = (("ce_id", b"\xff\x00"), ("twice", b"1"), ("twice", b"2"), ("ä", b""))


@pytest.fixture(scope="module")
def sent_among_good(world: World) -> dict[str, list[Sent]]:
    """Each case with a good message before and after it, all of them at once, so they are waited for together."""
    sent = {}
    for case, bad in BAD_INPUT.items():
        before, after = (
            encode(GOOD[bad.kind](source_id=world.source(f"{name} {case}"))) for name in ("before", "after")
        )
        sent[case] = world.send_all(bad.kind, [before, bad.value, after], key=world.tag.encode(), headers=HEADERS)
    return sent


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_dead_letter_with_its_code_its_bytes_and_its_origin(
    world: World, sent_among_good: dict[str, list[Sent]], case: str
) -> None:
    before, bad, after = sent_among_good[case]
    letter = world.dead(bad)
    assert letter["code"] == BAD_INPUT[case].code
    assert 0 < len(letter["reason"]) < 400
    assert letter["reason"].isprintable()
    assert (letter["key"], letter["value"]) == (world.tag.encode(), bad.value)
    assert [(name, base64.b64decode(value)) for name, value in letter["headers"]] == list(HEADERS)
    assert abs(letter["message_timestamp_us"] - letter["rejected_at"].timestamp() * 1e6) < 120e6

    assert world.stored(before)["seen_by"] == world.source(f"before {case}")
    assert world.stored(after)["seen_by"] == world.source(f"after {case}")
    assert len(world.dead_letters(bad)) == 1
    until(lambda: world.committed(after) > after.offset, ARRIVES_S_MAX, "the group to pass all three")


def test_a_message_over_the_topics_limit_is_refused_by_kafka_itself(world: World) -> None:
    error = world.refused_by_kafka(Kind.CID, bytes(300 * KIB))
    assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE


@pytest.mark.parametrize(
    "options",
    [
        {"key": None},
        {"key": b""},
        {"key": b"k" * 1_000_000},
        {"key": b"\xff\x00"},
        {"headers": tuple((f"h{number}", b"x") for number in range(10_000))},
        {"timestamp": 1},
        {"timestamp": 4_102_444_800_000},
    ],
    ids=["no key", "empty key", "key of 1 MB", "binary key", "10,000 headers", "of 1970", "of 2100"],
)
def test_a_strange_envelope_around_a_good_event_does_not_matter(world: World, options: dict[str, Any]) -> None:
    event = frame(source_id=world.source("odd"), sequence=3)
    good, bad = world.send_all(Kind.FRAME, [encode(event), b"junk"], **({"partition": 0} | options))
    assert world.stored(good)["seen_by"] == world.source("odd")
    letter = world.dead(bad)
    assert letter["key"] == bad.key
    assert len(letter["headers"]) == len(bad.headers)
    # A source's own clock must not decide how long Kafka keeps a message.
    assert abs(letter["message_timestamp_us"] - letter["rejected_at"].timestamp() * 1e6) < 120e6


def test_a_header_name_that_is_no_text_does_not_hold_up_its_partition(world: World) -> None:
    event = frame(png(5, 5, shade=55), source_id=world.source("names"))
    messages = [(encode(event), [(b"\xff\x00", b"1")]), (b"junk", [(b"\xff\x00", b"2")])]
    offset = asyncio.run(publish(world.settings, "edge.frames.v1", messages))
    good, bad = (Sent(Kind.FRAME, 0, offset + number, b"key", None, ()) for number in range(2))
    assert world.stored(good)["seen_by"] == event.source_id
    assert world.dead(bad)["headers"] == [["\\xff\ufffd", base64.b64encode(b"2").decode()]]


def test_what_a_transaction_committed_is_stored_and_its_markers_do_not_count_as_work(
    world: World, workers: dict[str, ServiceProcess]
) -> None:
    scans = {ends: [cid(f"{ends}-{number}", source_id=world.source("tx")) for number in range(3)] for ends in "ACB"}
    producer = Producer(client_config(world.settings, transactional_id=world.tag) | {"log_level": 0})
    producer.init_transactions(30)
    for ends, events in scans.items():  # the one in the middle and the last one are aborted
        producer.begin_transaction()
        for event in events:
            producer.produce("edge.cids.v1", encode(event), key=b"tx", partition=0)
        producer.flush(30)
        (producer.commit_transaction if ends == "C" else producer.abort_transaction)(30)

    def seen() -> set[str]:
        rows = world.rows("select code from records where source_id = %s", world.source("tx"))
        return {row["code"] for row in rows}

    until(lambda: seen() == {"C-0", "C-1", "C-2"}, ARRIVES_S_MAX, "what was committed, and only that")
    # Nobody can finish a marker: were it taken for work, the watchdog would end the worker again and again.
    no_lag = 'headrace_worker_lag_messages{topic="edge.cids.v1"} 0.0'
    until(lambda: no_lag in workers["small"].get("/metrics")[1], ARRIVES_S_MAX, "the lag to be none")
    assert seen() == {"C-0", "C-1", "C-2"}


def test_a_frame_is_stored_under_its_digest_and_recorded_as_it_says(world: World) -> None:
    event = frame(png(7, 5, shade=41), source_id=world.source("camera"), attributes=b'{"lens": "wide"}')
    row = world.stored(world.send(event, headers=(("traceparent", TRACE.encode()),)))
    assert row["digest"].hex() == event.sha256
    assert (row["kind"], row["width"], row["height"]) == ("frame", 7, 5)
    assert (row["media_type"], row["size_bytes"], row["attributes"]) == (
        "image/png",
        event.size_bytes,
        {"lens": "wide"},
    )
    assert row["captured_at"].timestamp() == pytest.approx(event.captured_at_us / 1e6, abs=1e-6)
    assert row["traceparent"] == TRACE
    assert (row["store_key"], row["store_offset"]) == (blob_key(event.sha256), None)
    assert world.read(row["store_key"]) == event.body


def test_what_a_source_without_a_clock_sends_is_recorded_and_counted(
    world: World, workers: dict[str, ServiceProcess]
) -> None:
    event = frame(png(7, 6, shade=42), source_id=world.source("clockless"), captured_at_us=1_500_000)
    row = world.stored(world.send(event))
    assert row["captured_at"].timestamp() == 1.5
    assert 'headrace_worker_unset_clock_total{kind="frame"} 1.0' in workers["large"].get("/metrics")[1]


def test_what_a_full_spool_dropped_is_in_the_catalog_and_counted(
    world: World, workers: dict[str, ServiceProcess], tmp_path: Path
) -> None:
    source = world.source("offline")
    away = world.settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"})
    with SpooledPublisher.from_settings(away, tmp_path, spool_bytes_max=80_000) as publisher:
        for number in range(60):
            publisher.publish(cid("x" * 4000, source_id=source, sequence=number))
        publisher.close(0.2)
    with SpooledPublisher.from_settings(world.settings, tmp_path) as publisher:
        assert publisher.flush(30) == 0
    count = "select count(*) as arrived from sightings where source_id = %s"
    losses = "select dropped, damaged from source_losses where source_id = %s"
    until(lambda: world.rows(losses, source), ARRIVES_S_MAX, "the report of the spool")
    [loss] = world.rows(losses, source)
    assert loss["damaged"] == 0
    assert loss["dropped"] > 0
    until(lambda: world.rows(count, source)[0]["arrived"] == 60 - loss["dropped"], ARRIVES_S_MAX, "the other events")
    counted = f'headrace_worker_source_losses_total{{reason="dropped"}} {float(loss["dropped"])}'
    assert counted in workers["small"].get("/metrics")[1]


def test_a_clip_is_recorded_with_what_it_is_about(world: World) -> None:
    event = clip(mp4(filler=b"about"), source_id=world.source("camera"), about="L-77", duration_us=1_234_567)
    row = world.stored(world.send(event))
    assert (row["kind"], row["duration_us"], row["about"]) == ("clip", 1_234_567, "L-77")


def test_small_events_are_packed_into_tars_from_which_each_can_be_read(world: World) -> None:
    scans = [cid(f"C-{number}", source_id=world.source("scanner")) for number in range(200)]
    sent = world.send_all(Kind.CID, [encode(event) for event in scans], key=b"scanner")
    rows = [world.stored(one) for one in sent]
    packs = {row["store_key"] for row in rows}
    assert len(packs) < len(rows) / 4
    held: set[str] = set()
    for key in packs:
        tar = world.read(key)
        assert key == f"packs/sha256/{sha256_hex(tar)[:2]}/{sha256_hex(tar)[2:4]}/{sha256_hex(tar)}.tar"
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            held |= set(opened.getnames())
    for event, row in zip(scans, rows, strict=True):
        body = canonical_body(event)
        assert row["digest"].hex() == sha256_hex(body)
        assert row["code"] == event.code
        assert f"{sha256_hex(body)}.json" in held
    for row in rows[::50]:
        assert sha256_hex(world.read(row["store_key"], row["store_offset"], row["blob_bytes"])) == row["digest"].hex()


def test_a_large_ldo_is_an_object_of_its_own(world: World) -> None:
    said = {"sensor_data": {"samples": "x" * 70_000}, "context": {}, "prediction": {}}
    event: Ldo = ldo("L-large", source_id=world.source("device"), body=orjson.dumps(said))
    row = world.stored(world.send(event))
    assert row["store_offset"] is None
    assert world.read(row["store_key"]) == canonical_body(event)


def test_the_same_bytes_from_another_source_are_one_record_one_blob_and_two_sightings(world: World) -> None:
    body = png(9, 9, shade=77)
    first = world.send(frame(body, source_id=world.source("one")))
    record = world.stored(first)["record_id"]
    again = [world.send(frame(body, source_id=world.source(name))) for name in ("two", "one")]
    assert {world.stored(one)["record_id"] for one in again} == {record}
    (count,) = world.rows(
        "select (select count(*) from records where digest = %s) as records,"
        " (select count(*) from blobs where sha256 = %s) as blobs,"
        " (select count(*) from sightings where record_id = %s) as sightings,"
        " (select count(*) from outbox where record_id = %s) as announcements",
        *[bytes.fromhex(sha256_hex(body))] * 2,
        record,
        record,
    )
    assert count == {"records": 1, "blobs": 1, "sightings": 3, "announcements": 1}


def test_the_same_scan_sent_twice_is_one_record_and_scanned_again_it_is_another(world: World) -> None:
    scan = cid("C-again", source_id=world.source("scanner"))
    rows = [
        world.stored(world.send(event))
        for event in (scan, replace(scan, sequence=8), replace(scan, captured_at_us=scan.captured_at_us + 1))
    ]
    assert rows[0]["record_id"] == rows[1]["record_id"] != rows[2]["record_id"]


def large_frame(world: World, name: str, shade: int) -> Frame:
    return frame(png(11, 3, shade=shade, padding_bytes=INLINE_BYTES_MAX), source_id=world.source(name))


def stage(world: World, key: str, body: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield body

    asyncio.run(staging.stage(world.blobs, key, chunks()))


def test_a_large_body_is_staged_promoted_and_leaves_nothing_behind(world: World) -> None:
    event = large_frame(world, "large", 1)
    with Publisher.from_settings(world.settings) as publisher:
        acknowledged = publisher.publish(event).result(60)
    assert [stat.key for stat in world.listed(f"staging/plant/{event.source_id}/")] in (
        [],
        [staging_key("plant", event.source_id, event.sha256)],
    )
    until(lambda: world.rows("select 1 from sightings where source_id = %s", event.source_id), ARRIVES_S_MAX, "it")
    assert acknowledged.digest == event.sha256
    assert sha256_hex(world.read(blob_key(event.sha256))) == event.sha256
    until(lambda: not world.listed(f"staging/plant/{event.source_id}/"), ARRIVES_S_MAX, "the staged object to go")
    assert world.listed("promoting/") == []


def test_a_claim_on_what_another_source_staged_is_refused_and_leaves_it_alone(world: World) -> None:
    event = frame(png(12, 3, shade=2), source_id=world.source("victim"))
    key = staging_key("plant", event.source_id, event.sha256)
    assert event.body is not None
    stage(world, key, event.body)
    thief = replace(event, body=None, claim=key, source_id=world.source("thief"))
    letter = world.dead(world.send(thief))
    assert (letter["code"], letter["source_id"]) == ("claim_refused", thief.source_id)
    assert [stat.key for stat in world.listed(f"staging/plant/{event.source_id}/")] == [key]
    assert world.stored(world.send(replace(event, body=None, claim=key)))["seen_by"] == event.source_id
    until(lambda: not world.listed(f"staging/plant/{event.source_id}/"), ARRIVES_S_MAX, "the staged object to go")


def test_a_staged_body_that_was_replaced_is_refused(world: World) -> None:
    event = frame(png(13, 3, shade=3), source_id=world.source("swapped"))
    key = staging_key("plant", event.source_id, event.sha256)
    stage(world, key, png(13, 3, shade=99))
    assert world.dead(world.send(replace(event, body=None, claim=key)))["code"] == "digest_mismatch"
    assert world.rows("select 1 from blobs where sha256 = %s", bytes.fromhex(event.sha256)) == []


def test_a_workers_health_is_there_to_be_asked(world: World, workers: dict[str, ServiceProcess]) -> None:
    world.stored(world.send(frame(source_id=world.source("health"))))
    large = workers["large"]
    assert large.get("/livez")[0] == 200
    status, text = large.get("/readyz")
    assert status == 200
    assert json.loads(text) == {"ready": True, "state": "ready", "needs": dict.fromkeys(NEEDS, "ok")}
    status, text = large.get("/metrics")
    assert status == 200
    assert 'headrace_worker_deliveries_total{kind="frame",outcome="' in text
    assert 'headrace_worker_lag_messages{topic="edge.frames.v1"}' in text


def test_no_secret_and_no_forged_line_is_in_what_a_worker_says(
    world: World, workers: dict[str, ServiceProcess]
) -> None:
    hostile = world.send(cid(source_id='x\n{"event": "forged"}\x1b[31m', code="ok"))
    assert world.dead(hostile)["code"] == "field_out_of_range"
    settings = world.settings
    secrets = [settings.store_secret_key.get_secret_value(), settings.postgres_dsn.get_secret_value().split("@")[0]]
    password = secrets[1].rsplit(":", 1)[1]
    for worker in workers.values():
        said = worker.log.read_text() + worker.get("/metrics")[1] + worker.get("/readyz")[1]
        assert not [secret for secret in (secrets[0], password) if secret in said]
        lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
        assert "forged" not in {line["event"] for line in lines}
        assert password.encode() not in Path(f"/proc/{worker.process.pid}/cmdline").read_bytes()
