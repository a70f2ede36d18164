"""The relay's producer of one topic. Every call blocks and belongs on one thread.

The transactional id is fixed, so `open` fences the relay before and ends the transaction that it left. After any error
the producer is closed: librdkafka could continue after some of them, but a producer that is never used again cannot
commit anything later, so what `published_offsets.py` then reads is complete.
"""

from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient

from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.runtime.kafka import client_config, message_bytes_max
from headrace.runtime.settings import Settings
from headrace.schemas.topics import PartitionKey, Topic
from headrace.streams.relay.announcement import Announcement
from headrace.streams.transaction_errors import PURGED, ProducerResetError, kafka_fault, kafka_faults

INIT_S_MAX = 10  # Kafka waits for the markers of a transaction that was left behind
COMMIT_S_MAX = 8  # a short outage passes within it; a longer one by a new term
RECONNECT_MS_MAX = 1000  # librdkafka's default would notice ten seconds late that Kafka is back
TRANSACTION_S_MAX = 15  # then Kafka itself aborts, so readers never wait longer for a relay that died
CLOSE_S_MAX = 2


def transactional_id(topic: str) -> str:
    """Return the transactional id of a topic: each has its own, so that a fault of one reaches no other."""
    return f"headrace-relay-{topic}"


class OutboxPublisher:
    """Publishes a topic's announcements, one transaction at a time. `bytes_max` is the topic's limit for a message."""

    def __init__(self, settings: Settings, topic: Topic, reached: Reached) -> None:
        """`reached` is called at each crash point."""
        self._settings = settings
        self._topic = topic
        self._reached = reached
        self._producer: Producer | None = None
        self.bytes_max = topic.message_bytes_max

    def open(self) -> None:
        """Read the topic's limit, fence an older relay and end its transaction.

        Raises:
            ProducerResetError, TopicRefusedError, FencedError.
        """
        self.read_limit()
        self._producer = Producer(self._config())
        with kafka_faults("taking over"):
            self._producer.init_transactions(INIT_S_MAX)

    def read_limit(self) -> None:
        """Read the topic's limit again: it may be changed at any time."""
        self.bytes_max = message_bytes_max(AdminClient(client_config(self._settings)), self._topic)

    def announce(self, announcements: Iterable[Announcement]) -> dict[PartitionKey, int]:
        """Publish all of them or none; returns the offsets that follow them. Must not be called again after an error.

        Raises:
            ProducerResetError: what became of them is not known. FencedError: another relay is active.
            MessageRefusedError, TopicRefusedError: none of them is published, and none would be.
        """
        assert self._producer is not None
        producer, deliveries = self._producer, _Deliveries()
        try:
            with kafka_faults("announcing", writes=self._topic.name):
                producer.begin_transaction()
                for announcement in announcements:
                    producer.produce(
                        announcement.topic,
                        announcement.value,
                        announcement.key,
                        on_delivery=deliveries.note,
                        headers=list(announcement.headers),
                    )
                self._reached(CrashPoint.RELAY_BEFORE_COMMIT)
                producer.commit_transaction(COMMIT_S_MAX)
        except ProducerResetError:
            # librdkafka's error of the transaction does not say what was wrong with its messages.
            if deliveries.error is None:
                raise
        else:
            self._reached(CrashPoint.RELAY_AFTER_SEND)
        if deliveries.error is not None:
            raise kafka_fault("announcing", deliveries.error, writes=self._topic.name)
        return deliveries.next_offsets

    def close(self) -> None:
        """Give the producer up; an open transaction is left to the next relay's `open`."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(CLOSE_S_MAX)

    def _config(self) -> dict[str, Any]:
        return client_config(
            self._settings,
            transactional_id=transactional_id(self._topic.name),
            transaction_timeout_ms=TRANSACTION_S_MAX * 1000,
            reconnect_backoff_max_ms=RECONNECT_MS_MAX,
            # A commit flushes, and a flush does not linger: this only lets a backlog form larger batches.
            linger_ms=5,
            # Kafka holds the topic's limit against whole batches. A message that is larger than this goes as a batch of
            # its own.
            batch_size=max(1, self.bytes_max // 2),
            message_max_bytes=self._topic.message_bytes_max,
            # The partitioner of Kafka's own clients, so other tools find a source's partition.
            partitioner="murmur2_random",
        )


class _Deliveries:
    """Where a transaction's messages ended up, as librdkafka reports it."""

    def __init__(self) -> None:
        self.next_offsets: dict[PartitionKey, int] = {}
        self.error: KafkaError | None = None

    def note(self, error: KafkaError | None, message: Message) -> None:
        """Take one delivery report; a partition's come in the order of its offsets."""
        if error is not None:
            # The first says why; the ones after it only that the transaction had failed.
            if error.code() not in PURGED:
                self.error = self.error or error
            return
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        self.next_offsets[topic, partition] = offset + 1
