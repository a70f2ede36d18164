"""Publishes events to Kafka.

`publish` gives an event to librdkafka and returns a `Delivery`, a `concurrent.futures.Future`: block with
`delivery.result()`, or wait in asyncio with `await asyncio.wrap_future(delivery)`. The bytes in flight are bounded;
beyond the bound `publish` blocks, so call it from an event loop as `await asyncio.to_thread(p.publish, event)`.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message

from headrace.producers.broker import Broker, InFlight
from headrace.producers.delivery import Acknowledged, Delivery, NotDeliveredError
from headrace.producers.outgoing import Dispatch
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config
from headrace.runtime.metrics import producer_events_total
from headrace.runtime.settings import Settings
from headrace.runtime.stack_settings import client_settings
from headrace.schemas.events import InputEvent, kind_of
from headrace.schemas.limits import MIB
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs

IN_FLIGHT_BYTES_MAX = 64 * MIB
DELIVERY_S_MAX = 120.0  # an event that is not acknowledged by then fails with NotDeliveredError
START_WAIT_S_MAX = 10.0
INTERRUPTED_CLOSE_S_MAX = 5.0  # how long a `with` block that raised waits for events in flight
EVENT_OVERHEAD_BYTES = 1024  # memory of an event besides its value: future, callback, headers
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class _Flight:
    """One event in flight."""

    event: InputEvent
    digest: str
    size_bytes: int
    delivery: Delivery


class Publisher:
    """Publishes events idempotently, acknowledged by all in-sync replicas; thread-safe.

    Bodies above INLINE_BYTES_MAX are staged in `blobs`; `client` has further librdkafka settings, such as credentials.
    Close it or use it in a `with` block, which waits for the events in flight.

    Raises:
        HeadraceError: kafka_unreachable with the address; no broker answered within `start_wait_s_max` seconds.
    """

    def __init__(  # noqa: PLR0913 - the parameters are the public interface
        self,
        bootstrap: str,
        *,
        blobs: Blobs | None = None,
        client: Mapping[str, Any] | None = None,
        in_flight_bytes_max: int = IN_FLIGHT_BYTES_MAX,
        start_wait_s_max: float = START_WAIT_S_MAX,
        delivery_s_max: float = DELIVERY_S_MAX,
    ) -> None:
        """Connect to the broker."""
        self._dispatch = Dispatch(blobs)
        self._delivery_s_max = delivery_s_max
        self._in_flight = InFlight(in_flight_bytes_max)
        self._drained = threading.Event()
        self._broker = Broker(
            bootstrap, client or {}, in_flight_bytes_max=in_flight_bytes_max, delivery_s_max=delivery_s_max
        )
        self._broker.wait(start_wait_s_max)
        self._poller = threading.Thread(target=self._poll, name="publisher", daemon=True)
        self._poller.start()

    @classmethod
    def from_settings(cls, settings: Settings | None = None, **options: Any) -> Self:
        """Return a publisher for the service in the settings; `options` are those of the class.

        Without settings, the addresses are those of the environment, or of the stack that `headrace up` started in this
        folder. It stages bodies above INLINE_BYTES_MAX in the store of the settings.
        """
        settings = settings or client_settings()
        given: dict[str, Any] = {
            "client": client_config(settings),
            "blobs": Blobs.from_settings(settings),
            "start_wait_s_max": settings.start_wait_s_max,
        }
        return cls(settings.kafka_bootstrap, **(given | options))

    def publish(self, event: InputEvent, *, body_path: Path | None = None, traceparent: str | None = None) -> Delivery:
        """Validate and send an event; blocks only while too many bytes are in flight. May be repeated.

        `body_path` is the file of a body that is not in memory (see `describe_clip`). Without a `traceparent` a new
        trace starts. The delivery raises NotDeliveredError if Kafka does not acknowledge the event.

        Raises:
            RejectedError: the event can never be ingested; nothing was sent.
            HeadraceError: publisher_closed, or store_needed for a large body without a blob store.
        """
        message = self._dispatch.outgoing(event, body_path, traceparent)
        flight = _Flight(message.event, message.digest, len(message.value) + EVENT_OVERHEAD_BYTES, Delivery())
        flight.delivery.set_running_or_notify_cancel()  # it cannot be cancelled any more
        # A callback that publishes must not wait for its own thread.
        if not self._in_flight.enter(flight.size_bytes, wait=threading.current_thread() is not self._poller):
            raise HeadraceError("publisher_closed", "the publisher is closed")
        try:
            self._broker.producer.produce(
                message.topic,
                value=message.value,
                key=message.key,
                headers=[*message.headers],
                on_delivery=partial(self._settle, flight),
            )
        except (KafkaException, BufferError) as error:
            known = error.args[0] if error.args and isinstance(error.args[0], KafkaError) else None
            self._fail(flight, known.str() if known else str(error), unreachable=False)
        return flight.delivery

    def flush(self, timeout_s: float) -> int:
        """Wait at most `timeout_s` seconds for all deliveries; return how many are still open."""
        self._in_flight.drained(timeout_s)
        return self._in_flight.events

    def close(self, timeout_s: float | None = None) -> None:
        """Accept no more events, wait for those in flight, and fail those left after `timeout_s` seconds.

        The default is the time after which every delivery has its result anyway. May be repeated.
        """
        self._in_flight.shut()
        if not self._in_flight.drained(self._delivery_s_max + 1 if timeout_s is None else timeout_s):
            self._broker.producer.purge()
            self._in_flight.drained(1)
        self._drained.set()
        self._poller.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(None if kind is None else INTERRUPTED_CLOSE_S_MAX)

    def _settle(self, flight: _Flight, error: KafkaError | None, acknowledged: Message) -> None:
        if error is not None:
            self._fail(flight, self._broker.why(error, acknowledged.topic()), unreachable=self._broker.no_answer(error))
            return
        self._count_out(flight, "acknowledged")
        partition, offset = acknowledged.partition(), acknowledged.offset()
        assert partition is not None and offset is not None  # noqa: PT018 - an acknowledged message has both
        topic = input_topic(kind_of(flight.event)).name
        flight.delivery.set_result(Acknowledged(topic, partition, offset, flight.digest))

    def _fail(self, flight: _Flight, why: str, *, unreachable: bool) -> None:
        self._count_out(flight, "failed")
        flight.delivery.set_exception(
            NotDeliveredError(flight.event, flight.digest, why=why, where=self._broker.where, unreachable=unreachable)
        )

    def _count_out(self, flight: _Flight, outcome: str) -> None:
        producer_events_total.labels(kind=kind_of(flight.event).value, outcome=outcome).inc()
        self._in_flight.leave(flight.size_bytes)

    def _poll(self) -> None:
        while not self._drained.is_set():
            self._broker.producer.poll(_POLL_S)
