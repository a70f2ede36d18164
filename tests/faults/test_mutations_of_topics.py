"""The checker on real servers: what somebody does to topics, outbox and offsets turns it red; before it is green.

None of this can be undone, so each test has a line of its own.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.events import Kind
from headrace.streams.worker.profile import LARGE
from tests.faults.line import MESSAGES, Line, finish, line_on
from tests.faults.observed import Partition

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def own(stack_settings: Settings, tmp_path: Path) -> Iterator[Line]:
    """A line of the test's own that has taken up what was published, and still runs."""
    with line_on(stack_settings, tmp_path) as line:
        line.start()
        line.publish(line.plan(), MESSAGES)
        line.settle()
        line.expect()
        yield line


def test_a_duplicate_announcement(own: Line) -> None:
    own.stop()
    # The last one of a partition, so that nothing is out of order.
    last = max(own.observed().afterwards.announcements, key=lambda announcement: announcement.place.offset)
    producer = Producer(client_config(own.settings, acks="all"))
    key = last.event.source_id.encode()
    producer.produce(last.place.topic, encode(last.event), key, partition=last.place.partition)
    assert producer.flush(30) == 0
    own.expect("I3")


def test_a_dropped_event(own: Line) -> None:
    own.stop("relay")
    own.publish(own.plan(), MESSAGES)
    own.settle(announced=False)
    dropped = "select min(id) from outbox where published_at is null and record_id is not null"
    own.sql(f"update outbox set published_at = now() where id = ({dropped})")
    own.start("relay")
    own.settle()
    own.stop()
    own.expect("I4")


def test_a_skipped_offset(own: Line) -> None:
    with own.watched():
        own.stop("worker-media")
        frames = (
            planned_message
            for planned_message in own.plan()
            if planned_message.attempt.kind is Kind.FRAME and planned_message.attempt.expect is None
        )
        (ack,) = own.publish(frames, 1).acks
        at = Partition(ack.place.topic, ack.place.partition)
        finish(own.settings, LARGE.name, {at: ack.place.offset + 1})
        # A worker compares the group's offset with the catalog's and would stop: that one is moved too.
        own.sql(
            "insert into ingest_progress (topic, partition, next_offset) values ($1, $2, $3)"
            " on conflict (topic, partition) do update set next_offset = excluded.next_offset",
            ack.place.topic,
            ack.place.partition,
            ack.place.offset + 1,
        )
        own.start("worker-media")
        own.publish(own.plan(), MESSAGES)
        own.settle()
        own.stop()
    # It is missing everywhere; and whoever watched has seen when.
    assert len(own.findings.i14) == 1, own.findings
    own.expect("I1", "I4", "I9", "I14")
