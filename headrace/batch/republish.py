"""Publishes the messages of dead letters again, unchanged. Every call blocks and belongs on one thread."""

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config, kafka_unreachable
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import DeadLetterRow
from headrace.schemas.headers import Redrive, redrive_headers
from headrace.schemas.topics import TOPICS

ACKNOWLEDGED_S_MAX = 30
_REQUEST_S = 10
_POLL_S_MAX = 0.2


@dataclass
class Republisher:
    """Publishes with `acks=all` and idempotence, in order, at most `rate` messages per second."""

    settings: Settings
    rate: float
    clock: Callable[[], float] = time.monotonic
    _next_s: float = 0.0
    _partitions: dict[str, int] = field(default_factory=dict)
    _producer: Producer | None = None

    def publish(self, letters: Sequence[tuple[DeadLetterRow, int]]) -> None:
        """Publish messages, each with its attempt number, and wait until Kafka has acknowledged all of them.

        Raises:
            HeadraceError: a message was not acknowledged; any of them may have been published.
        """
        producer = self._open_producer()
        errors: list[KafkaError] = []

        def on_delivery(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                errors.append(error)

        try:
            for letter, attempt in letters:
                self._throttle(producer)
                reached(CrashPoint.REDRIVE_BEFORE_PUBLISH)
                self._produce(producer, letter, attempt, on_delivery)
            unacknowledged = producer.flush(ACKNOWLEDGED_S_MAX)
        except (KafkaException, BufferError) as error:
            raise self._error(error.args[0]) from None
        if errors:
            raise self._error(errors[0])
        if unacknowledged:
            raise self._error(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
        reached(CrashPoint.REDRIVE_AFTER_PUBLISH)

    def _produce(
        self,
        producer: Producer,
        letter: DeadLetterRow,
        attempt: int,
        on_delivery: Callable[[KafkaError | None, Message], None],
    ) -> None:
        redrive = Redrive(letter.dead_letter_id, attempt)
        partitions = self._partition_count(producer, letter.topic)
        # The original partition keeps a source's messages together, even without a key. -1 partitions by key.
        partition = letter.partition if letter.partition < partitions else -1
        headers = redrive_headers(original_headers(letter), redrive, (letter.topic, letter.partition, letter.offset))
        producer.produce(
            letter.topic, letter.value, letter.key, partition=partition, on_delivery=on_delivery, headers=list(headers)
        )

    def _open_producer(self) -> Producer:
        if self._producer is None:
            self._producer = Producer(
                client_config(
                    self.settings,
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=5,
                    message_max_bytes=max(topic.message_bytes_max for topic in TOPICS.values()),
                    delivery_timeout_ms=ACKNOWLEDGED_S_MAX * 1000,
                    partitioner="murmur2_random",
                )
            )
        return self._producer

    def _partition_count(self, producer: Producer, topic: str) -> int:
        if topic not in self._partitions:
            self._partitions[topic] = len(producer.list_topics(topic, timeout=_REQUEST_S).topics[topic].partitions)
        return self._partitions[topic]

    def _throttle(self, producer: Producer) -> None:
        interval_s = 1 / self.rate
        start_s = max(self._next_s, self.clock())
        self._next_s = start_s + interval_s
        while (wait_s := start_s - self.clock()) > 0:
            producer.poll(min(wait_s, _POLL_S_MAX))

    def _error(self, error: KafkaError | str) -> HeadraceError:
        if isinstance(error, KafkaError):
            unreachable = kafka_unreachable(self.settings, error)
            unreachable.hint = "run the command again; it resumes, and nothing is ingested twice"
            return unreachable
        return HeadraceError("redrive_failed", str(error), where=self.settings.kafka_bootstrap)


def original_headers(letter: DeadLetterRow) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of a dead letter's message."""
    return tuple((name, base64.b64decode(value)) for name, value in orjson.loads(letter.headers))
