"""From an event to Kafka's acknowledgement.

`publish` hands an event to librdkafka and returns a `Delivery`, a `concurrent.futures.Future`: block for it with
`delivery.result()`, or wait in asyncio with `await asyncio.wrap_future(delivery)`. What is in flight is bounded in
bytes; beyond the bound `publish` blocks, so from an event loop call it as `await asyncio.to_thread(p.publish, event)`.
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
from headrace.schemas.events import InputEvent, kind_of
from headrace.schemas.limits import MIB
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs

IN_FLIGHT_BYTES_MAX = 64 * MIB
DELIVERY_S_MAX = 120.0  # after it an event without acknowledgement is given back as NotDelivered
START_WAIT_S_MAX = 10.0
INTERRUPTED_CLOSE_S_MAX = 5.0  # what a `with` block that ends by an exception waits for what is in flight
EVENT_OVERHEAD_BYTES = 1024  # what an event costs in memory beside its bytes: future, callback, headers
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class _Flight:
    """One event on its way."""

    event: InputEvent
    digest: str
    size_bytes: int
    delivery: Delivery


class Publisher:
    """Publishes events, idempotently and acknowledged by all in-sync replicas; may be used from several threads.

    `blobs` is where bodies above INLINE_BYTES_MAX are staged; `client` holds further librdkafka settings, such as
    credentials. Close it, or use it in a `with` block: what is in flight then is waited for.

    Raises:
        HeadraceError: kafka_unreachable with the address, when no broker answered within `start_wait_s_max` seconds.
    """

    def __init__(
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
    def from_settings(cls, settings: Settings, **options: Any) -> Self:
        """Return a publisher for the service that the settings name; `options` as those of the class."""
        given: dict[str, Any] = {
            "client": client_config(settings),
            "blobs": Blobs.from_settings(settings),
            "start_wait_s_max": settings.start_wait_s_max,
        }
        return cls(settings.kafka_bootstrap, **(given | options))

    def publish(self, event: InputEvent, *, body_path: Path | None = None, traceparent: str | None = None) -> Delivery:
        """Hand an event over; returns at once unless too much is in flight. May be repeated: agents deduplicate.

        `body_path` is the file of a body that was too large to be held (see `describe_clip`). A trace is begun where
        no `traceparent` is given. The delivery raises NotDelivered where Kafka did not acknowledge.

        Raises:
            Rejected: the event can never be ingested; nothing was sent.
            HeadraceError: the publisher is closed, or a large body finds no blob store.
        """
        going = self._dispatch.outgoing(event, body_path, traceparent)
        flight = _Flight(going.event, going.digest, len(going.value) + EVENT_OVERHEAD_BYTES, Delivery())
        flight.delivery.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        # A callback that publishes must not wait for the thread that it runs in.
        if not self._in_flight.enter(flight.size_bytes, wait=threading.current_thread() is not self._poller):
            raise HeadraceError("publisher_closed", "the publisher is closed and takes no more events")
        try:
            self._broker.producer.produce(
                going.topic,
                value=going.value,
                key=going.key,
                headers=[*going.headers],
                on_delivery=partial(self._settle, flight),
            )
        except (KafkaException, BufferError) as error:
            known = error.args[0] if error.args and isinstance(error.args[0], KafkaError) else None
            self._fail(flight, known.str() if known else str(error), unreachable=False)
        return flight.delivery

    def flush(self, timeout_s: float) -> int:
        """Wait until every delivery has its result, at most `timeout_s` seconds; returns how many have none yet."""
        self._in_flight.drained(timeout_s)
        return self._in_flight.events

    def close(self, timeout_s: float | None = None) -> None:
        """Take no more events, wait for those in flight, and give up those that are left after `timeout_s` seconds.

        By default that is the time after which each delivery has its result anyway. May be repeated.
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

    def _settle(self, flight: _Flight, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._fail(flight, self._broker.why(error), unreachable=self._broker.no_answer(error))
            return
        self._count_out(flight, "acknowledged")
        partition, offset = message.partition(), message.offset()
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
