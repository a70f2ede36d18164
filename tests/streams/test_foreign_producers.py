"""A real worker and producers that are not ours: whatever Kafka takes becomes a record or a dead letter."""

import asyncio
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.events import Kind
from headrace.schemas.limits import HEADERS_MAX, MIB
from tests.fuzzing.varints import written
from tests.processes import ServiceProcess
from tests.streams.streams_batches import batch_of, builder, publish_raw, record_of
from tests.streams.streams_samples import cid
from tests.streams.streams_world import ARRIVES_S_MAX, Sent, World
from tests.waiting import until

pytestmark = pytest.mark.stack

TOPIC = "edge.cids.v1"
EVENT = encode(cid())


@pytest.fixture(scope="module")
def world(module_settings: Settings) -> Iterator[World]:
    with closing(World(module_settings)) as opened:
        yield opened


@pytest.fixture(scope="module")
def truncated(module_settings: Settings, world: World) -> Sent:
    """The first message of a log whose beginning is gone, also that which nobody had read."""
    scans = [encode(cid(source_id=world.source(f"truncated-{number}"))) for number in range(3)]
    *_, last = world.send_all(Kind.CID, scans, partition=1)
    place = TopicPartition(TOPIC, last.partition, last.offset)
    admin = AdminClient(client_config(module_settings))
    for deleted in admin.delete_records([place]).values():
        assert deleted.result(30).low_watermark == last.offset
    return last


@pytest.fixture(scope="module", autouse=True)
def worker(
    module_settings: Settings, truncated: Sent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    log = tmp_path_factory.mktemp("worker") / "small.log"
    process = ServiceProcess(module_settings, "worker", "--kinds", "cids,ldos", log=log)
    try:
        process.wait_ready()
        yield process
    finally:
        code = process.stop()
    assert code == 0


def batch(*offset_deltas: int, headers: bytes = written(0)) -> bytes:
    records = [record_of(EVENT, offset_delta=delta, headers=headers) for delta in offset_deltas]
    return batch_of(records, last_delta=len(records) - 1)


def expanding() -> bytes:
    made = builder([], compression=1)
    made._batch_size = 10**9
    made.append(0, 1, None, bytes(64 * MIB), [])
    return bytes(made.build())


HOSTILE = {
    "offsets far beyond the batch": (batch(0, 10**6, 10**6), "undecodable"),
    "one offset for all": (batch(0, 0, 0), "undecodable"),
    "offsets backwards": (batch(2, 1, 0), "undecodable"),
    "64 KB that expand to 64 MiB": (expanding(), "undecodable"),
    "more headers than are held": (
        batch(0, headers=written(HEADERS_MAX + 1) + (written(0) + written(-1)) * (HEADERS_MAX + 1)),
        "too_large",
    ),
}


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_what_a_producer_compresses_is_recorded_whatever_the_codec(world: World, codec: str) -> None:
    source = world.source(codec)
    scans = [encode(cid(f"{codec}-{number}" * 9, source_id=source)) for number in range(50)]
    producer = Producer(client_config(world.settings, compression_type=codec, linger_ms=200) | {"log_level": 0})
    for scan in scans:
        producer.produce(TOPIC, scan, partition=0)
    assert producer.flush(30) == 0
    count = "select count(*) as scans from records where source_id = %s"
    until(lambda: world.rows(count, source) == [{"scans": 50}], ARRIVES_S_MAX, f"what was sent with {codec}")


@pytest.mark.parametrize("case", HOSTILE)
def test_a_batch_that_cannot_be_read_is_a_dead_letter_and_what_follows_is_recorded(world: World, case: str) -> None:
    raw, code = HOSTILE[case]
    messages = int.from_bytes(raw[57:61], "big")
    last = asyncio.run(publish_raw(world.settings, TOPIC, raw, messages=messages)) + messages - 1
    (after,) = world.send_all(Kind.CID, [encode(cid(source_id=world.source(case)))], partition=0)
    assert world.stored(after)["seen_by"] == world.source(case)
    letter = world.dead(Sent(Kind.CID, 0, last, None, None, ()))
    assert letter["code"] == code
    assert letter["value"][57:] == raw[57:]  # before that a broker writes its own offsets and times
    until(lambda: world.committed(after) > after.offset, ARRIVES_S_MAX, "the group to pass both")


def test_a_message_of_headers_alone_is_a_dead_letter_with_its_headers(world: World) -> None:
    (sent,) = world.send_all(Kind.CID, [None], key=None, headers=(("only", b"this"),), partition=0)
    letter = world.dead(sent)
    assert (letter["code"], letter["key"], letter["value"]) == ("empty_value", None, None)
    assert letter["headers"] == [["only", "dGhpcw=="]]


def test_a_log_that_was_truncated_is_read_from_where_it_begins(world: World, truncated: Sent) -> None:
    assert world.stored(truncated)["seen_by"] == world.source("truncated-2")
    until(lambda: world.committed(truncated) > truncated.offset, ARRIVES_S_MAX, "the group to pass it")
