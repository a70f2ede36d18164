"""The relay's producer. Every call blocks and belongs on one thread.

The transactional id is fixed, so `open` fences the relay before and ends the transaction that it left. After any error
the producer is closed: librdkafka could continue after some of them, but a producer that is never used again cannot
commit anything later, so what `published_offsets.py` then reads is complete.
"""

from collections.abc import Iterable

from confluent_kafka import KafkaError, Message, Producer

from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.topics import PartitionKey
from headrace.streams.relay.announcement import OUTPUT_TOPICS, Announcement
from headrace.streams.transaction_errors import kafka_fault, kafka_faults

TRANSACTIONAL_ID = "headrace-relay"
INIT_S_MAX = 10  # Kafka waits for the markers of a transaction that was left behind
COMMIT_S_MAX = 8  # a short outage passes within it; a longer one by a new term
RECONNECT_MS_MAX = 1000  # librdkafka's default would notice ten seconds late that Kafka is back
TRANSACTION_S_MAX = 15  # then Kafka itself aborts, so readers never wait longer for a relay that died
CLOSE_S_MAX = 2
# Kafka holds a topic's limit against whole batches, librdkafka's default of 1 MB against none of ours. A message that
# is larger than this goes as a batch of its own.
BATCH_BYTES_MAX = min(topic.message_bytes_max for topic in OUTPUT_TOPICS.values()) // 2


class OutboxPublisher:
    """Publishes announcements, one transaction at a time."""

    def __init__(self, settings: Settings, reached: Reached) -> None:
        """`reached` is called at each crash point."""
        self._reached = reached
        self._config = client_config(
            settings,
            transactional_id=TRANSACTIONAL_ID,
            transaction_timeout_ms=TRANSACTION_S_MAX * 1000,
            reconnect_backoff_max_ms=RECONNECT_MS_MAX,
            # A commit flushes, and a flush does not linger: this only lets a backlog form larger batches.
            linger_ms=5,
            batch_size=BATCH_BYTES_MAX,
            message_max_bytes=max(topic.message_bytes_max for topic in OUTPUT_TOPICS.values()),
            # The partitioner of Kafka's own clients, so other tools find a source's partition.
            partitioner="murmur2_random",
        )
        self._producer: Producer | None = None

    def open(self) -> None:
        """Fence an older relay and end its transaction.

        Raises:
            ProducerResetError, FencedError.
        """
        self._producer = Producer(self._config)
        with kafka_faults("taking over"):
            self._producer.init_transactions(INIT_S_MAX)

    def announce(self, announcements: Iterable[Announcement]) -> dict[PartitionKey, int]:
        """Publish all of them or none; returns the offsets that follow them. Must not be called again after an error.

        Raises:
            ProducerResetError: what became of them is not known. FencedError: another relay is active.
        """
        assert self._producer is not None
        producer, deliveries = self._producer, _Deliveries()
        with kafka_faults("announcing"):
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
        self._reached(CrashPoint.RELAY_AFTER_SEND)
        if deliveries.error is not None:
            raise kafka_fault("announcing", deliveries.error)
        return deliveries.next_offsets

    def close(self) -> None:
        """Give the producer up; an open transaction is left to the next relay's `open`."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(CLOSE_S_MAX)


class _Deliveries:
    """Where a transaction's messages ended up, as librdkafka reports it."""

    def __init__(self) -> None:
        self.next_offsets: dict[PartitionKey, int] = {}
        self.error: KafkaError | None = None

    def note(self, error: KafkaError | None, message: Message) -> None:
        """Take one delivery report; a partition's come in the order of its offsets."""
        if error is not None:
            self.error = error
            return
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        self.next_offsets[topic, partition] = offset + 1
