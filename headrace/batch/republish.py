"""Messages of dead letters, published again as they were. Every call blocks and belongs on one thread."""

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
    """Publishes with `acks=all` and idempotence, in order, at most `rate` messages a second."""

    settings: Settings
    rate: float
    clock: Callable[[], float] = time.monotonic
    _due_s: float = 0.0
    _partitions: dict[str, int] = field(default_factory=dict)
    _producer: Producer | None = None

    def publish(self, letters: Sequence[tuple[DeadLetterRow, int]]) -> None:
        """Publish messages, each with the number of its attempt, and wait until Kafka has acknowledged all of them.

        Raises:
            HeadraceError: one was not acknowledged; then any of them may have been published.
        """
        producer = self._opened()
        errors: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                errors.append(error)

        try:
            for letter, attempt in letters:
                self._pace(producer)
                reached(CrashPoint.REDRIVE_BEFORE_PUBLISH)
                self._produce(producer, letter, attempt, delivered)
            left = producer.flush(ACKNOWLEDGED_S_MAX)
        except (KafkaException, BufferError) as error:
            raise self._failed(error.args[0]) from None
        if errors:
            raise self._failed(errors[0])
        if left:
            raise self._failed(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
        reached(CrashPoint.REDRIVE_AFTER_PUBLISH)

    def _produce(
        self,
        producer: Producer,
        letter: DeadLetterRow,
        attempt: int,
        delivered: Callable[[KafkaError | None, Message], None],
    ) -> None:
        redrive = Redrive(letter.dead_letter_id, attempt)
        there = self._partitions_of(producer, letter.topic)
        # A source's messages stay in its partition, also where its key says nothing. -1 lets the key decide.
        partition = letter.partition if letter.partition < there else -1
        headers = redrive_headers(original_headers(letter), redrive, (letter.topic, letter.partition, letter.offset))
        producer.produce(
            letter.topic, letter.value, letter.key, partition=partition, on_delivery=delivered, headers=list(headers)
        )

    def _opened(self) -> Producer:
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

    def _partitions_of(self, producer: Producer, topic: str) -> int:
        if topic not in self._partitions:
            self._partitions[topic] = len(producer.list_topics(topic, timeout=_REQUEST_S).topics[topic].partitions)
        return self._partitions[topic]

    def _pace(self, producer: Producer) -> None:
        self._due_s = max(self._due_s, self.clock()) + 1 / self.rate
        while (wait_s := self._due_s - 1 / self.rate - self.clock()) > 0:
            producer.poll(min(wait_s, _POLL_S_MAX))

    def _failed(self, error: KafkaError | str) -> HeadraceError:
        if isinstance(error, KafkaError):
            failure = kafka_unreachable(self.settings, error)
            failure.hint = "run it again: it goes on where it stopped, and nothing is ingested twice"
            return failure
        return HeadraceError("redrive_failed", str(error), where=self.settings.kafka_bootstrap)


def original_headers(letter: DeadLetterRow) -> tuple[tuple[str, bytes], ...]:
    """Return the headers that a dead letter's message had."""
    return tuple((name, base64.b64decode(value)) for name, value in orjson.loads(letter.headers))
