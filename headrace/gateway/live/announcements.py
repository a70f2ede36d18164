"""Announcements from Kafka without a consumer group: nobody's offsets move. Everything here blocks."""

from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.gateway.live.resume_token import TOPICS, TopicPartitionRef
from headrace.gateway.live.stream_event import StreamedEvent, of_announcement
from headrace.runtime.kafka import client_config, kafka_unreachable
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import offset_bounds, partitions_of
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested
from headrace.schemas.reject import RejectedError

EVENTS_AT_ONCE_MAX = 500
POLL_S = 0.1  # also the longest that a stop waits for the thread
_REQUEST_S = 5.0
_QUEUED_KIB_MAX = 2 * 1024


class Reader:
    """Follows every partition of the announcements' topics. Its methods belong on one thread."""

    def __init__(self, settings: Settings) -> None:
        """Connect."""
        self._settings = settings
        self._consumer = consumer_of(settings, auto_offset_reset="earliest")

    def bounds(self) -> dict[TopicPartitionRef, tuple[int, int]]:
        """Return each partition's first offset and the one behind its last.

        Raises:
            HeadraceError: Kafka does not answer, or a topic is not there.
        """
        return bounds_by(self._settings, self._consumer, self.places())

    def places(self) -> list[TopicPartitionRef]:
        """Return the partitions that there are.

        Raises:
            HeadraceError: as `bounds`.
        """
        try:
            return [place for topic in TOPICS for place in partitions_of(self._consumer, topic, timeout_s=_REQUEST_S)]
        except KafkaException as error:
            raise kafka_unreachable(self._settings, error.args[0]) from None

    def follow(self, nexts: Mapping[TopicPartitionRef, int]) -> None:
        """Read these partitions from these offsets on."""
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in nexts.items()])

    def take(self) -> list[tuple[TopicPartitionRef, int, StreamedEvent | None]]:
        """Return what has come: where it stood, and the event, None where it is none of ours.

        Raises:
            HeadraceError: Kafka refuses us.
        """
        first = self._consumer.poll(POLL_S)
        if first is None:
            return []
        rest = self._consumer.consume(EVENTS_AT_ONCE_MAX - 1, 0)
        return [
            (*stood, happening_of(message, *stood))
            for message in (first, *rest)
            if (stood := self._stood(message)) is not None
        ]

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _stood(self, message: Message) -> tuple[TopicPartitionRef, int] | None:
        if (error := message.error()) is None:
            return place_of(message), message.offset() or 0
        if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise kafka_unreachable(self._settings, error)
        return None  # librdkafka goes on trying by itself


def bounds_of(settings: Settings, places: Iterable[TopicPartitionRef]) -> dict[TopicPartitionRef, tuple[int, int]]:
    """Return the first offset of each partition and the one behind its last.

    Raises:
        HeadraceError: Kafka does not answer.
    """
    consumer = consumer_of(settings)
    try:
        return bounds_by(settings, consumer, places)
    finally:
        consumer.close()


def happening_of(message: Message, place: TopicPartitionRef, offset: int) -> StreamedEvent | None:
    """Return the announcement that a message is; None where somebody else wrote to our topic."""
    try:
        return of_announcement(decode(message.value(), Ingested), place, offset)
    except RejectedError as rejected:
        get_log().warning(Action.UNDECODABLE, topic=place[0], partition=place[1], offset=offset, why=rejected.reason)
        return None


def bounds_by(
    settings: Settings, consumer: Consumer, places: Iterable[TopicPartitionRef]
) -> dict[TopicPartitionRef, tuple[int, int]]:
    """Return the same, asked with a consumer that is there.

    Raises:
        HeadraceError: Kafka does not answer.
    """
    try:
        return offset_bounds(consumer, places, timeout_s=_REQUEST_S)
    except KafkaException as error:
        raise kafka_unreachable(settings, error.args[0]) from None


def place_of(message: Message) -> TopicPartitionRef:
    """Return where a message stands."""
    return message.topic() or "", message.partition() or 0


def consumer_of(settings: Settings, **extra: Any) -> Consumer:
    """Return a consumer of what is committed."""
    # It is asked for a group, and never joins one: partitions are assigned, and nothing is committed.
    config = client_config(
        settings,
        group_id="headrace-gateway",
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        isolation_level="read_committed",
        queued_max_messages_kbytes=_QUEUED_KIB_MAX,
        fetch_queue_backoff_ms=5,
        fetch_wait_max_ms=100,
        reconnect_backoff_max_ms=1000,
        **extra,
    )
    return Consumer(config)
