import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.producers import Delivery, Device, NotDeliveredError, Publisher, describe_clip, describe_frame
from headrace.producers.broker import Broker, InFlight
from headrace.producers.delivery import DeliveryStats
from headrace.producers.outgoing import Dispatch
from headrace.producers.source import Source
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.metrics import producer_bytes_in_flight, producer_unset_clock_total
from headrace.schemas.digest import canonical_body, sha256_hex
from headrace.schemas.events import Cid, Frame, Ldo
from headrace.schemas.limits import CLOCK_SET_US_MIN, INLINE_BYTES_MAX, MIB
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import validate
from headrace.store.blobs.blob_store import Blobs
from tests.processes import free_port
from tests.producers.conftest import MOCK
from tests.producers.sample_media import image
from tests.streams.streams_samples import mp4

pytestmark = pytest.mark.server

CID = Cid(source_id="cam-1", site="default", captured_at_us=1_700_000_000_000_000, sequence=7, code="C-1")
LDO = Ldo(
    source_id="d",
    site="default",
    captured_at_us=1_700_000_000_000_000,
    sequence=7,
    ldo_id="l-1",
    body=b'{"sensor_data":{},"context":{},"prediction":{}}',
)


def frame(size_bytes: int = 0, number: int = 0) -> Frame:
    body = image(number)
    return describe_frame(body + bytes(max(0, size_bytes - len(body))), Source("cam-1", "default").origin())


def test_a_delivery_says_where_the_event_is(mock_publisher: Publisher):
    first = mock_publisher.publish(CID).result(10)
    again = mock_publisher.publish(CID).result(10)
    assert first.digest == again.digest == sha256_hex(canonical_body(CID))
    assert (first.topic, first.partition) == (again.topic, again.partition)
    assert first.topic == "edge.cids.v1"
    assert again.offset == first.offset + 1


async def test_a_delivery_can_be_awaited(mock_publisher: Publisher):
    acknowledged = await asyncio.wrap_future(mock_publisher.publish(LDO))
    assert acknowledged.digest == sha256_hex(canonical_body(LDO))


def test_a_delivery_cannot_be_cancelled(mock_publisher: Publisher):
    delivery = mock_publisher.publish(CID)
    assert not delivery.cancel()
    delivery.result(10)


def test_flush_waits_for_all(mock_publisher: Publisher):
    deliveries = [mock_publisher.publish(replace(CID, sequence=number)) for number in range(500)]
    assert mock_publisher.flush(10) == 0
    assert all(delivery.done() for delivery in deliveries)
    assert sorted(delivery.result().offset for delivery in deliveries) == list(range(500))


def test_what_is_in_flight_is_bounded_in_bytes():
    bound = 3 * MIB
    most = 0.0
    with Publisher("mock", client=MOCK | {"test.mock.broker.rtt": 100}, in_flight_bytes_max=bound) as publisher:
        for number in range(12):
            publisher.publish(frame(MIB, number))
            most = max(most, producer_bytes_in_flight._value.get())
    assert 2 * MIB < most <= bound
    assert producer_bytes_in_flight._value.get() == 0


def test_what_alone_is_above_the_bound_passes():
    with Publisher("mock", client=MOCK, in_flight_bytes_max=MIB) as publisher:
        publisher.publish(frame(2 * MIB)).result(10)


def test_a_callback_may_publish_although_too_much_is_in_flight():
    done = threading.Event()
    with Publisher("mock", client=MOCK, in_flight_bytes_max=1) as publisher:

        def again(_: object) -> None:
            publisher.publish(CID).add_done_callback(lambda _: done.set())

        publisher.publish(CID).add_done_callback(again)
        assert done.wait(10)


def test_an_event_without_acknowledgement_is_given_back():
    slow = MOCK | {"test.mock.broker.rtt": 500}
    with Publisher("mock", client=slow, delivery_s_max=0.3) as publisher:
        delivery = publisher.publish(CID)
        with pytest.raises(NotDeliveredError, match="cid 7 of source cam-1 was not acknowledged") as given_back:
            delivery.result(20)
    error = given_back.value
    assert (error.code, error.exit_code) == ("not_delivered", Exit.UNREACHABLE)
    assert (error.source_id, error.sequence, error.digest) == ("cam-1", 7, sha256_hex(canonical_body(CID)))


def test_close_gives_up_what_is_left():
    publisher = Publisher("mock", client=MOCK | {"test.mock.broker.rtt": 500})
    delivery = publisher.publish(CID)
    publisher.close(0)
    with pytest.raises(NotDeliveredError):
        delivery.result(0)
    publisher.close()
    with pytest.raises(HeadraceError, match="publisher_closed"):
        publisher.publish(CID)


def test_a_block_that_fails_does_not_wait_long():
    with pytest.raises(KeyError), Publisher("mock", client=MOCK) as publisher:  # noqa: PT012
        delivery = publisher.publish(CID)
        raise KeyError
    assert delivery.done()


def test_a_broker_that_is_not_there_is_named():
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(HeadraceError, match=address) as unreachable:
        Publisher(address, start_wait_s_max=0.2)
    assert (unreachable.value.code, unreachable.value.exit_code) == ("kafka_unreachable", Exit.UNREACHABLE)
    assert "refused" in str(unreachable.value)
    assert "hint:" in str(unreachable.value)


def test_a_setting_that_librdkafka_does_not_know_is_named():
    with pytest.raises(HeadraceError, match="no\\.such\\.thing"):
        Publisher("mock", client={"no.such.thing": 1})


@pytest.mark.parametrize("clock_us", [CID.captured_at_us, 60_000_000], ids=["set", "not set"])
@pytest.mark.parametrize("captured_at_us", [60_000_000, CLOCK_SET_US_MIN - 1])
def test_what_a_device_without_a_clock_made_is_published_and_counted(clock_us: int, captured_at_us: int):
    count = producer_unset_clock_total.labels("cid")
    before = count._value.get()
    message = Dispatch(None, now_us=lambda: clock_us).outgoing(replace(CID, captured_at_us=captured_at_us), None, None)
    assert ("headrace-clock", b"unset") in message.headers
    assert count._value.get() == before + 1


def test_a_device_without_a_clock_does_not_judge_the_time_of_a_camera_that_has_one():
    message = Dispatch(None, now_us=lambda: 60_000_000).outgoing(CID, None, None)
    assert dict(message.headers).get("headrace-clock") is None


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (replace(CID, source_id="a\nb"), RejectCode.FIELD_OUT_OF_RANGE),
        (replace(CID, site=""), RejectCode.MISSING_FIELD),
        (replace(CID, code=""), RejectCode.MISSING_FIELD),
        (replace(CID, code="a\x00"), RejectCode.FIELD_OUT_OF_RANGE),
        (replace(CID, code="\ud800"), RejectCode.FIELD_OUT_OF_RANGE),
        (replace(CID, code="x" * 5000), RejectCode.FIELD_OUT_OF_RANGE),
        (replace(CID, captured_at_us=-1), RejectCode.ABSURD_TIME),
        (replace(LDO, ldo_id=" l"), RejectCode.FIELD_OUT_OF_RANGE),
        (replace(LDO, body=b"[]"), RejectCode.NOT_JSON),
        (replace(LDO, body=b'{"context":{}}'), RejectCode.MISSING_FIELD),
        (replace(LDO, body=b'{"a":"' + b"x" * MIB + b'"}'), RejectCode.TOO_LARGE),
        (replace(frame(), sha256="ABC"), RejectCode.MALFORMED_DIGEST),
        (replace(frame(), size_bytes=1), RejectCode.SIZE_MISMATCH),
        (replace(frame(), size_bytes=0, body=b""), RejectCode.MISSING_FIELD),
        (replace(frame(), size_bytes=65 * MIB, body=None, claim="staging/x"), RejectCode.TOO_LARGE),
        (replace(frame(), attributes=bytes(70_000)), RejectCode.TOO_LARGE),
    ],
)
def test_what_no_agent_would_take_is_refused_at_once(event: Cid, code: RejectCode, mock_publisher: Publisher):
    with pytest.raises(RejectedError) as refused:
        mock_publisher.publish(event)
    assert refused.value.code is code
    assert producer_bytes_in_flight._value.get() == 0


def test_a_code_may_hold_control_characters():
    validate(replace(CID, code="\x1d0112345678901231\x1d"), CID.captured_at_us)


def test_a_large_body_needs_a_blob_store(mock_publisher: Publisher):
    with pytest.raises(HeadraceError, match="store_needed"):
        mock_publisher.publish(frame(INLINE_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="body_path"):
        mock_publisher.publish(replace(frame(INLINE_BYTES_MAX + 1), body=None))


async def test_a_large_body_is_staged_and_claimed(tmp_path: Path):
    blobs = Blobs.open(f"file://{tmp_path}")
    large = frame(INLINE_BYTES_MAX + 1)
    # Also from within a running event loop.
    with Publisher("mock", client=MOCK, blobs=blobs) as publisher:
        assert publisher.publish(large).result(10).digest == large.sha256
    staged = await blobs.get(f"staging/default/cam-1/{large.sha256}")
    assert staged == large.body


async def test_a_large_file_is_staged_without_being_held(tmp_path: Path):
    blobs = Blobs.open(f"file://{tmp_path}/store")
    path = tmp_path / "large.mp4"
    path.write_bytes(mp4(filler=bytes(9 * MIB)))
    event = describe_clip(path, Source("d", "halle 1").origin(), about="l-1")
    assert (event.body, event.size_bytes) == (None, path.stat().st_size)
    with Publisher("mock", client=MOCK, blobs=blobs) as publisher:
        publisher.publish(event, body_path=path).result(10)
    assert sha256_hex(await blobs.get(f"staging/halle%201/d/{event.sha256}")) == event.sha256


def test_several_threads_may_publish(mock_publisher: Publisher):
    device = Device(mock_publisher, "d")
    threads = [threading.Thread(target=lambda: [device.scan("C") for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mock_publisher.flush(10) == 0


class Refusing:
    """A producer that does not take or does not find what it needs."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def produce(self, *_: object, **__: object) -> None:
        raise self.error

    def list_topics(self, **_: object) -> None:
        raise self.error

    def poll(self, _: float) -> int:
        return 0


@pytest.mark.parametrize("error", [BufferError("queue full"), KafkaException(KafkaError(KafkaError._FATAL))])
def test_what_librdkafka_does_not_take_is_given_back(error: Exception, mock_publisher: Publisher):
    real, mock_publisher._broker.producer = mock_publisher._broker.producer, Refusing(error)
    with pytest.raises(NotDeliveredError, match=r"queue full|[Ff]atal"):
        mock_publisher.publish(CID).result(0)
    mock_publisher._broker.producer = real
    assert producer_bytes_in_flight._value.get() == 0


def test_a_broker_that_does_not_let_us_in_is_not_waited_for():
    broker = Broker("host:9092", MOCK, in_flight_bytes_max=MIB, delivery_s_max=1)
    broker.producer = Refusing(KafkaException(KafkaError(KafkaError._TRANSPORT)))
    broker.fault = KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error")
    with pytest.raises(HeadraceError, match="connection to Kafka was refused") as refused:
        broker.wait(60)
    assert refused.value.code == "kafka_refused"


def test_what_flies_is_waited_for_no_longer_than_said():
    flying = InFlight(10)
    assert flying.drained(0)
    assert flying.enter(5)
    assert not flying.drained(0.01)
    waiting = threading.Thread(target=lambda: sent_away.append(flying.enter(6)))
    sent_away: list[bool] = []
    waiting.start()
    flying.shut()
    waiting.join(10)
    assert sent_away == [False]
    flying.leave(5)


def test_a_tally_waits_no_longer_than_said():
    tally = DeliveryStats()
    tally.add(CID, Delivery())
    assert not tally.wait(0.01)
    for _ in range(150):
        tally.fail("x")
    assert (tally.counts().failed, len(tally.counts().faults)) == (150, 100)
