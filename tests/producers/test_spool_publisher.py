"""A publisher with a spool: events outlive the broker's absence, the process's end, and both together."""

import gc
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from headrace.producers import Device, NotDeliveredError, Publisher, SpooledPublisher
from headrace.producers.delivery import Delivery
from headrace.producers.spool import spooled_publisher
from headrace.producers.spool.segments import SpoolEntry
from headrace.producers.spool.spool import Spool
from headrace.runtime.crash_points import VARIABLE
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.codec import decode
from headrace.schemas.events import Cid
from headrace.schemas.headers import DROPPED, SPOOL, SpoolLosses, losses_of
from headrace.schemas.limits import INLINE_BYTES_MAX
from tests.processes import free_port
from tests.producers.conftest import MOCK
from tests.producers.test_publisher import CID, frame
from tests.producers.test_spool import read_all

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
EVENTS = 400
EVENT_BYTES_MAX = 200  # what a process allocates once, spread over so few events


@pytest.fixture
def broker() -> Iterator[str]:
    """The address of a broker: librdkafka's mock cluster speaks the real protocol on real ports."""
    with Publisher("mock", client=MOCK) as owner:
        (broker_metadata,) = owner._broker.producer.list_topics(timeout=10).brokers.values()
        yield f"{broker_metadata.host}:{broker_metadata.port}"


def arrived(bootstrap: str) -> list[tuple[Cid, dict[str, bytes]]]:
    """Every scan in the topic, by partition and offset, with its headers."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "t", "enable.partition.eof": True, "log_level": 0})
    topic = consumer.list_topics("edge.cids.v1", timeout=10).topics["edge.cids.v1"]
    consumer.assign([TopicPartition("edge.cids.v1", partition, 0) for partition in topic.partitions])
    ended, events = set(), []
    while len(ended) < len(topic.partitions):
        for consumed in consumer.consume(100, 1.0):
            if consumed.error() is None:
                events.append((decode(consumed.value(), Cid), dict(consumed.headers())))
            elif consumed.error().code() == KafkaError._PARTITION_EOF:
                ended.add(consumed.partition())
    consumer.close()
    return events


def nowhere() -> str:
    return f"127.0.0.1:{free_port()}"


def test_an_event_is_durable_at_once_and_acknowledged_later(broker: str, tmp_path: Path):
    with SpooledPublisher(broker, tmp_path) as publisher:
        first = publisher.publish(CID).result(10)
        again = publisher.publish(CID).result(10)
        assert (again.topic, again.offset) == ("edge.cids.v1", first.offset + 1)
        assert publisher.flush(10) == 0
    assert [event for event, _ in arrived(broker)] == [CID, CID]


def test_devices_publish_through_it(broker: str, tmp_path: Path):
    with SpooledPublisher(broker, tmp_path) as publisher:
        Device(publisher, "scanner-1").scan("C-9").result(10)
    assert [event.code for event, _ in arrived(broker)] == ["C-9"]


def test_a_broker_that_is_away_is_waited_for_across_restarts(broker: str, tmp_path: Path):
    events = [replace(CID, sequence=number) for number in range(20)]
    publisher = SpooledPublisher(nowhere(), tmp_path)
    deliveries = [publisher.publish(event) for event in events]
    assert publisher.waiting == 20
    publisher.close(0.2)
    with pytest.raises(NotDeliveredError, match="sent when the spool is opened again"):
        deliveries[0].result(0)
    with pytest.raises(HeadraceError, match="spool_closed"):
        publisher.publish(CID)
    with SpooledPublisher(broker, tmp_path) as publisher:
        assert publisher.flush(20) == 0
    assert [event for event, _ in arrived(broker)] == events


def test_a_producer_that_fails_is_replaced_and_nothing_is_lost(broker: str, tmp_path: Path):
    with SpooledPublisher(broker, tmp_path) as publisher:
        publisher.publish(CID).result(10)
        before = publisher._broker
        publisher._trouble.set()
        publisher.publish(replace(CID, sequence=8)).result(20)
        assert publisher._broker is not before
        assert publisher.flush(10) == 0
    assert {event.sequence for event, _ in arrived(broker)} == {7, 8}


def test_what_kafka_never_takes_is_given_back_and_the_others_go_on(broker: str, tmp_path: Path):
    too_large = SpoolEntry("edge.cids.v1", b"k", [("ce_id", b"1")], bytes(40_000_000))
    with SpooledPublisher(broker, tmp_path) as publisher:
        publisher._spool.append(too_large)
        publisher.publish(CID).result(20)
        assert publisher.flush(10) == 0
        assert publisher.quarantined == 1
    spool = Spool(tmp_path)
    assert read_all(spool) == []
    assert spool.quarantined == 1, "also after a restart"
    assert spool.release() == 1
    assert [entry for _, entry in read_all(spool)] == [too_large]
    assert (spool.quarantined, spool.release()) == (0, 0)
    spool.close()


def test_what_is_in_the_quarantine_is_published_once_its_cause_is_gone(broker: str, tmp_path: Path):
    with SpooledPublisher(nowhere(), tmp_path) as publisher:
        publisher.publish(CID)
        publisher.close(0.1)
    spool = Spool(tmp_path)
    for number, entry in read_all(spool):
        spool.quarantine(number, entry)  # as if Kafka had refused it
    spool.close()
    with SpooledPublisher(broker, tmp_path) as publisher:
        assert (publisher.quarantined, publisher.waiting) == (1, 0)
        assert publisher.release_quarantined() == 1
        assert publisher.flush(20) == 0
        assert (publisher.quarantined, publisher.release_quarantined()) == (0, 0)
    assert [event for event, _ in arrived(broker)] == [CID]


def test_a_waiting_event_takes_no_memory_unless_somebody_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spooled_publisher, "IN_FLIGHT_BYTES_MAX", 10_000)
    publisher = SpooledPublisher(nowhere(), tmp_path)
    publisher.publish(CID)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(EVENTS):
        publisher.publish(replace(CID, sequence=number))
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert publisher.waiting == EVENTS + 1
    assert (after - before) / EVENTS < EVENT_BYTES_MAX
    told: list[Delivery] = []
    for number in range(5):
        publisher.publish(replace(CID, sequence=number)).add_done_callback(told.append)
    gc.collect()
    publisher.close(0)
    assert len(told) == 5, "a callback is called although nobody keeps the delivery"


def test_what_was_dropped_is_said_with_the_next_event(broker: str, tmp_path: Path):
    publisher = SpooledPublisher(nowhere(), tmp_path, spool_bytes_max=80_000)
    big = [replace(CID, sequence=number, code="x" * 4000) for number in range(60)]
    deliveries = [publisher.publish(event) for event in big]
    publisher.close(0.5)
    dropped = [number for number, delivery in enumerate(deliveries) if "spool was full" in str(delivery.exception(0))]
    assert dropped
    with SpooledPublisher(broker, tmp_path) as publisher:
        publisher.publish(replace(CID, source_id="cam-2"))
        assert publisher.flush(20) == 0
    events = arrived(broker)
    assert {event.sequence for event, _ in events if event.source_id == "cam-1"} == set(range(60)) - set(dropped)
    assert {headers.get(DROPPED) for event, headers in events if event.source_id == "cam-1"} == {b"%d" % len(dropped)}
    assert [headers.get(DROPPED) for event, headers in events if event.source_id == "cam-2"] == [None]
    reports = {losses_of(headers.items()) for event, headers in events if event.source_id == "cam-1"}
    (spool,) = {headers[SPOOL].decode() for event, headers in events if event.source_id == "cam-1"}
    assert reports == {SpoolLosses(spool, len(dropped), 0)}


def test_a_large_body_needs_a_store(tmp_path: Path):
    publisher = SpooledPublisher(nowhere(), tmp_path)
    with pytest.raises(HeadraceError, match="store"):
        publisher.publish(frame(INLINE_BYTES_MAX + 1))
    assert publisher.waiting == 0
    publisher.close(0)


PUBLISH = """
import sys
from dataclasses import replace
from pathlib import Path
from headrace.producers import SpooledPublisher
from headrace.schemas.events import Cid
CID = Cid(source_id="cam-1", site="default", captured_at_us=1_700_000_000_000_000, sequence=7, code="C-1")
publisher = SpooledPublisher(sys.argv[1], Path(sys.argv[2]))
for number in range(int(sys.argv[3])):
    publisher.publish(replace(CID, sequence=number))
    print(number, flush=True)
publisher.flush(30)
"""


def publishing(bootstrap: str, directory: Path, count: int, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISH, bootstrap, str(directory), str(count)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def test_sigkill_while_the_broker_is_away_loses_nothing(broker: str, tmp_path: Path):
    process = publishing(nowhere(), tmp_path, 100_000)
    assert process.stdout is not None
    for _ in range(40):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    accepted = 40 + len(process.stdout.read().splitlines())
    process.wait()
    process.stdout.close()
    with SpooledPublisher(broker, tmp_path) as publisher:
        assert publisher.flush(20) == 0
    sequences = [event.sequence for event, _ in arrived(broker)]
    assert sequences == list(range(len(sequences)))
    assert len(sequences) in {accepted, accepted + 1}


@pytest.mark.parametrize(
    "point", ["spool_before_fsync:10", "spool_after_fsync:10", "spool_after_send:10", "spool_after_send:1"]
)
def test_a_crash_at_any_step_neither_loses_nor_reorders(broker: str, tmp_path: Path, point: str):
    process = publishing(broker, tmp_path, 30, **{VARIABLE: point})
    out, _ = process.communicate(timeout=60)
    assert process.returncode == Exit.CRASHED
    with SpooledPublisher(broker, tmp_path) as publisher:
        assert publisher.flush(20) == 0
    sequences = [event.sequence for event, _ in arrived(broker)]
    assert set(sequences) >= set(range(len(out.splitlines())))
    firsts = list(dict.fromkeys(sequences))
    assert firsts == sorted(firsts), "what comes again is a sighting; what comes first comes in its order"
    spool = Spool(tmp_path)
    assert read_all(spool) == []
    spool.close()
