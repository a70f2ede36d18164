"""What one call of the Kafka client may bring: a partition that goes, comes back, and its first message."""

from dataclasses import dataclass

from confluent_kafka import TopicPartition

from headrace.runtime.settings import load_settings
from headrace.schemas.codec import encode
from headrace.schemas.events import Ingested
from headrace.streams.consumers.group_consumer import GroupConsumer

PLACE = ("ingested.frames.v1", 0)
EVENT = Ingested(
    source_id="camera",
    site="site",
    captured_at_us=1_790_000_000_000_000,
    sequence=1,
    event_id="e",
    record_id="r",
    kind="frame",
    digest="0" * 64,
    ingested_at_us=1_790_000_000_000_000,
    media_type="image/png",
    size_bytes=1,
    store_key="blobs/x",
)


@dataclass
class PolledMessage:
    """A message as librdkafka gives it."""

    place: int

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return PLACE[0]

    def partition(self) -> int:
        return PLACE[1]

    def offset(self) -> int:
        return self.place

    def value(self) -> bytes:
        return encode(EVENT)

    def headers(self) -> list[tuple[str, bytes]]:
        return []


class Client:
    """A client that loses its partition while it is asked for the first message, or for the others."""

    def __init__(self, consumer: GroupConsumer, lost_in: str) -> None:
        self._consumer = consumer
        self._lost_in = lost_in

    def _lose(self, during: str) -> None:
        if self._lost_in == during:
            self._consumer._on_revoked(self, [TopicPartition(*PLACE)])

    def poll(self, _seconds: float) -> PolledMessage:
        self._lose("poll")
        return PolledMessage(10)

    def consume(self, _count: int, _seconds: float) -> list[PolledMessage]:
        self._lose("consume")
        return [PolledMessage(11), PolledMessage(12)]

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*PLACE)]


def taken(lost_in: str) -> list[int]:
    consumer = GroupConsumer(load_settings(_env_file=None), "group", [PLACE[0]], on_revoked=lambda _partitions: None)
    consumer._consumer = Client(consumer, lost_in)
    return [event.offset for event in consumer._poll(10).events.get(PLACE, [])]


def test_a_partition_that_went_and_came_back_within_a_call_loses_nothing() -> None:
    assert taken("poll") == [10, 11, 12]


def test_a_partition_that_goes_after_its_first_message_is_left_to_its_new_owner() -> None:
    assert taken("consume") == []
