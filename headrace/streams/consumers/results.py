"""Publish results and commit offsets in one Kafka transaction: a `read_committed` reader sees each result once.

The calls block and belong on the consumer's thread. After any error both the producer and the membership are closed:
the next member begins at the offsets of the last committed transaction (KIP-447).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException, Producer, TopicPartition

from headrace.runtime.acl import Operation, with_acl
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.events import PerceivedFrame, PreprocessedFrame
from headrace.schemas.headers import Headers, headers_for
from headrace.schemas.topics import PERCEIVED, PREPROCESSED, PartitionKey
from headrace.streams.consumers.group_consumer import RECONNECT_MS_MAX
from headrace.streams.transaction_errors import ProducerResetError

INIT_S_MAX = 10
COMMIT_S_MAX = 8
TRANSACTION_S_MAX = (
    10  # a transaction takes milliseconds; one that a killed process left open must not block readers for long
)
CLOSE_S_MAX = 2
# Kafka applies a topic's limit to whole batches.
BATCH_BYTES_MAX = min(PREPROCESSED.message_bytes_max, PERCEIVED.message_bytes_max) // 2

_TOPICS = {PreprocessedFrame: PREPROCESSED.name, PerceivedFrame: PERCEIVED.name}


@dataclass(frozen=True, slots=True)
class ResultMessage:
    """One result, ready to be published."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


def message_of(result: PreprocessedFrame | PerceivedFrame, traceparent: str | None) -> ResultMessage:
    """Return a result as a message, keyed by its source, with the trace context of its frame."""
    headers = headers_for(result, subject=result.digest, traceparent=traceparent)
    return ResultMessage(_TOPICS[type(result)], result.source_id.encode(), encode(result), headers)


class Results:
    """Publishes results. No other process may use the `transactional_id`."""

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        self._config = client_config(
            settings,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_S_MAX * 1000,
            batch_size=BATCH_BYTES_MAX,
            reconnect_backoff_max_ms=RECONNECT_MS_MAX,
            partitioner="murmur2_random",
        )
        self._producer: Producer | None = None

    def open(self) -> None:
        """Initialize transactions.

        Raises:
            ProducerResetError.
        """
        self._producer = Producer(self._config)
        try:
            self._producer.init_transactions(INIT_S_MAX)
        except KafkaException as error:
            raise ProducerResetError(f"Kafka failed: {error.args[0].str()}") from None

    def publish(
        self, messages: Iterable[ResultMessage], next_offsets: Mapping[PartitionKey, int], group_metadata: Any
    ) -> None:
        """Publish results and commit the offsets of their input, all or nothing.

        Raises:
            ProducerResetError: the outcome is unknown.
        """
        assert self._producer is not None
        producer = self._producer
        topic = ""
        positions = [TopicPartition(*partition, offset) for partition, offset in next_offsets.items()]
        try:
            producer.begin_transaction()
            for message in messages:
                topic = message.topic
                producer.produce(message.topic, message.value, message.key, headers=list(message.headers))
            producer.send_offsets_to_transaction(positions, group_metadata, COMMIT_S_MAX)
            # A failed delivery fails the commit, so delivery reports are not needed.
            producer.commit_transaction(COMMIT_S_MAX)
        except KafkaException as error:
            fault = with_acl(error.args[0], Operation.WRITE, topic)
            raise ProducerResetError(f"Kafka failed: {fault.str()}") from None
        except BufferError:
            raise ProducerResetError("librdkafka's queue was full") from None

    def close(self) -> None:
        """Close the producer; an open transaction is aborted."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.abort_transaction(CLOSE_S_MAX)
            except KafkaException:
                # There was none, or Kafka is unavailable and aborts it after TRANSACTION_S_MAX.
                producer.purge()
            producer.flush(CLOSE_S_MAX)
