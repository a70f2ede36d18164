"""librdkafka's producer, idempotent and acknowledged by all in-sync replicas, and the bound on bytes in flight."""

import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from headrace.runtime.acl import Operation, with_acl
from headrace.runtime.errors import HeadraceError, unreachable
from headrace.runtime.kafka import UNLOGGED, is_refusal, kafka_refused
from headrace.runtime.metrics import producer_bytes_in_flight
from headrace.schemas.events import Kind
from headrace.schemas.limits import MIB
from headrace.schemas.topics import input_topic

LINGER_MS = 5  # at full rate, batches fill sooner
_TOPICS = [input_topic(kind) for kind in Kind]
_MESSAGE_BYTES_MAX = max(topic.message_bytes_max for topic in _TOPICS)
# The broker applies its limit to a whole batch, and librdkafka has one batch size for all topics, so a batch must fit
# the topic with the smallest limit, with room for record overhead. A larger message is sent as a batch of its own.
_BATCH_BYTES_MAX = min(topic.message_bytes_max for topic in _TOPICS) * 3 // 4
_PROBE_S = 2
_HINT = "start it (`headrace up` on this machine), or set HEADRACE_KAFKA_BOOTSTRAP to its address"
_NO_ANSWER = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._MSG_TIMED_OUT})  # noqa: SLF001


class Broker:
    """A producer and its last error."""

    def __init__(
        self, bootstrap: str, client: Mapping[str, Any], *, in_flight_bytes_max: int, delivery_s_max: float
    ) -> None:
        """Configure the producer without connecting.

        Raises:
            HeadraceError: librdkafka rejects the configuration.
        """
        self.where = bootstrap
        self.fault: KafkaError | None = None
        config: dict[str, Any] = {
            **client,
            **UNLOGGED,  # our errors contain librdkafka's
            "bootstrap.servers": bootstrap,
            "client.id": "headrace-publisher",
            "enable.idempotence": True,
            "acks": "all",
            # The partitioner of Java's and aiokafka's clients: a source keeps its partition with any client.
            "partitioner": "murmur2",
            "compression.type": "none",  # media are compressed already
            "linger.ms": LINGER_MS,
            "batch.size": _BATCH_BYTES_MAX,
            "message.max.bytes": _MESSAGE_BYTES_MAX,
            "delivery.timeout.ms": int(delivery_s_max * 1000),
            # InFlight bounds the bytes; librdkafka's own queue must never be full.
            "queue.buffering.max.messages": 0,
            "queue.buffering.max.kbytes": (in_flight_bytes_max + 2 * _MESSAGE_BYTES_MAX + MIB) // 1024,
            "error_cb": self._on_error,
        }
        try:
            self.producer = Producer(config)
        except (KafkaException, ValueError, TypeError) as error:
            raise HeadraceError(
                "kafka_config_refused", f"the Kafka client rejects its configuration: {error}", where=bootstrap
            ) from None

    def wait(self, wait_s_max: float) -> None:
        """Wait until the broker answers.

        Raises:
            HeadraceError: kafka_unreachable with the address after `wait_s_max` seconds; kafka_refused at once if
                authentication or TLS fails.
        """
        deadline = time.monotonic() + wait_s_max
        while True:
            try:
                self.producer.list_topics(timeout=min(_PROBE_S, max(0.1, wait_s_max)))
            except KafkaException as error:
                self.producer.poll(0)
                if self.fault is not None and is_refusal(self.fault):
                    raise kafka_refused(self.where, self.fault) from None
                if time.monotonic() >= deadline:
                    raise unreachable("kafka", self.where, self.why(error.args[0]), _HINT) from None
                time.sleep(0.1)
            else:
                self.fault = None
                return

    def why(self, error: KafkaError, topic: str | None = None) -> str:
        """Return the text of an error, for a message to `topic`; with the client's last error if no broker answered."""
        text: str = with_acl(error, Operation.WRITE, topic).str()
        return f"{text} ({self.fault.str()})" if self.fault is not None and self.no_answer(error) else text

    @staticmethod
    def no_answer(error: KafkaError) -> bool:
        """Return whether an error means that no broker answered."""
        return error.code() in _NO_ANSWER

    def _on_error(self, error: KafkaError) -> None:
        self.fault = error


class InFlight:
    """Counts and bounds the bytes that are sent but not acknowledged; the only place where a producer blocks."""

    def __init__(self, bytes_max: int) -> None:
        """Allow `bytes_max` at a time; a larger event passes if nothing else is in flight."""
        self._bytes_max = bytes_max
        self._bytes = 0
        self._events = 0
        self._shut = False
        self._changed = threading.Condition()

    @property
    def events(self) -> int:
        """The number of events in flight."""
        return self._events

    def enter(self, size_bytes: int, *, wait: bool = True) -> bool:
        """Add an event, waiting until there is room; return False after `shut`."""
        with self._changed:
            while wait and not self._shut and self._events and self._bytes + size_bytes > self._bytes_max:
                self._changed.wait()
            if self._shut:
                return False
            self._bytes += size_bytes
            self._events += 1
        producer_bytes_in_flight.inc(size_bytes)
        return True

    def leave(self, size_bytes: int) -> None:
        """Remove an event."""
        with self._changed:
            self._bytes -= size_bytes
            self._events -= 1
            self._changed.notify_all()
        producer_bytes_in_flight.dec(size_bytes)

    def shut(self) -> None:
        """Accept no more events; waiting callers return."""
        with self._changed:
            self._shut = True
            self._changed.notify_all()

    def drained(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; return False on timeout."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._events:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True
