"""A publisher that works without a broker: events are durable on this machine's disk until Kafka acknowledges them.

librdkafka gets the events in the order of the spool and sends them in that order, without a time limit. Only an event
that Kafka will never accept is given up. After any other error a new producer starts at the oldest event that is not
acknowledged; an event that is thereby sent twice adds a sighting.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as KafkaMessage

from headrace.producers.broker import Broker, InFlight
from headrace.producers.delivery import Acknowledged, Delivery, NotDeliveredError
from headrace.producers.outgoing import Dispatch, Outgoing
from headrace.producers.publisher import EVENT_OVERHEAD_BYTES, INTERRUPTED_CLOSE_S_MAX
from headrace.producers.spool.segments import SpoolEntry
from headrace.producers.spool.spool import SPOOL_BYTES_MAX, Spool
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.kafka import client_config
from headrace.runtime.metrics import producer_events_total
from headrace.runtime.settings import Settings
from headrace.schemas.events import InputEvent, kind_of
from headrace.schemas.limits import MIB
from headrace.store.blobs.blob_store import Blobs

DROPPED = "headrace-dropped"  # header: how many events of this source the spool has dropped
DAMAGED = "headrace-damaged"  # header: how many events of any source in the spool were damaged
IN_FLIGHT_BYTES_MAX = 32 * MIB
CLOSE_S_MAX = 10.0
START_OVER_S = 1.0
_POLL_S = 0.1
# The errors for which librdkafka gives an event up although it may retry for ever.
_NEVER = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD})


class SpooledPublisher:
    """Publishes through a spool in `directory`, which one process at a time may use; thread-safe.

    The broker may be unavailable, also at the start. A body above INLINE_BYTES_MAX is staged in `blobs` first, which
    must be available for that. Events of an earlier process are published first. A full spool drops its oldest events:
    their deliveries raise NotDeliveredError, and the header `headrace-dropped` has their number.

    Raises:
        HeadraceError: spool_in_use, spool_unusable.
    """

    def __init__(
        self,
        bootstrap: str,
        directory: Path,
        *,
        blobs: Blobs | None = None,
        client: Mapping[str, Any] | None = None,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
    ) -> None:
        """Open the spool and start to publish its events."""
        self._dispatch = Dispatch(blobs)
        in_flight_bytes_max = min(IN_FLIGHT_BYTES_MAX, spool_bytes_max // 4)
        self._in_flight = InFlight(in_flight_bytes_max)
        self._new_broker = partial(
            Broker, bootstrap, client or {}, in_flight_bytes_max=in_flight_bytes_max, delivery_s_max=0
        )
        self._broker = self._new_broker()
        self._open: dict[int, tuple[Outgoing, Delivery]] = {}
        self._dropped_ranges: deque[tuple[int, int]] = deque()
        self._trouble = threading.Event()
        self._closing = threading.Event()
        self._closed = threading.Event()
        self._spool = Spool(directory, bytes_max=spool_bytes_max, dropped=self._dropped)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._poll, self._feed)]
        for thread in self._threads:
            thread.start()

    @classmethod
    def from_settings(cls, settings: Settings, directory: Path, **options: Any) -> Self:
        """Return a publisher for the service in the settings; `options` are those of the class."""
        given: dict[str, Any] = {"client": client_config(settings), "blobs": Blobs.from_settings(settings)}
        return cls(settings.kafka_bootstrap, directory, **(given | options))

    def publish(self, event: InputEvent, *, body_path: Path | None = None, traceparent: str | None = None) -> Delivery:
        """Validate an event and write it to the spool; the delivery completes when Kafka acknowledges the event.

        May be repeated. After an error the event is not in the spool.

        Raises:
            RejectedError: the event can never be ingested.
            HeadraceError: spool_full, spool_write_failed, spool_closed, or store_needed for a large body.
        """
        outgoing, delivery = self._dispatch.outgoing(event, body_path, traceparent), Delivery()
        delivery.set_running_or_notify_cancel()
        self._spool.append(
            SpoolEntry(outgoing.topic, outgoing.key, outgoing.headers, outgoing.value),
            lambda number: self._open.__setitem__(number, (_without_value(outgoing), delivery)),
        )
        return delivery

    @property
    def waiting(self) -> int:
        """The number of events in the spool that are not acknowledged."""
        return self._spool.waiting

    def flush(self, timeout_s: float) -> int:
        """Wait at most `timeout_s` seconds until the spool is empty; return the number of events left."""
        deadline = time.monotonic() + timeout_s
        while (left := self._spool.waiting) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def close(self, timeout_s: float = CLOSE_S_MAX) -> None:
        """Wait until the spool is empty, then close it; events left are published when it is opened again.

        May be repeated.
        """
        if self._closed.is_set():
            return
        self.flush(timeout_s)
        self._closing.set()
        self._in_flight.shut()
        self._threads[1].join()
        self._broker.producer.purge()
        self._in_flight.drained(1)
        self._closed.set()
        self._threads[0].join()
        self._spool.close()
        self._fail_dropped()
        for number in list(self._open):
            self._fail(number, "it is in the spool and will be sent when the spool is opened again", unreachable=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(CLOSE_S_MAX if kind is None else INTERRUPTED_CLOSE_S_MAX)

    def _feed(self) -> None:
        while not self._closing.is_set():
            if self._trouble.is_set():
                self._start_over()
            elif (read := self._spool.next(_POLL_S)) is not None:
                self._send(*read)

    def _send(self, number: int, message: SpoolEntry) -> None:
        size_bytes = len(message.value) + EVENT_OVERHEAD_BYTES
        if not self._in_flight.enter(size_bytes):
            return
        try:
            self._broker.producer.produce(
                message.topic,
                value=message.value,
                key=message.key,
                headers=[*message.headers, *self._losses(message.key)],
                on_delivery=partial(self._settle, number, size_bytes),
            )
        except (KafkaException, BufferError) as error:
            self._in_flight.leave(size_bytes)
            self._failed(number, error.args[0] if isinstance(error, KafkaException) else None)

    def _losses(self, key: bytes) -> list[tuple[str, bytes]]:
        counts = ((DROPPED, self._spool.dropped_of(key.decode(errors="replace"))), (DAMAGED, self._spool.damaged))
        return [(name, str(count).encode()) for name, count in counts if count]

    def _settle(self, number: int, size_bytes: int, error: KafkaError | None, acknowledged: KafkaMessage) -> None:
        if error is None:
            reached(CrashPoint.SPOOL_AFTER_SEND)
            self._spool.acknowledge(number)
            self._acknowledged(number, acknowledged)
        else:
            self._failed(number, error)
        self._in_flight.leave(size_bytes)

    def _acknowledged(self, number: int, acknowledged: KafkaMessage) -> None:
        outgoing, delivery = self._open.pop(number, (None, None))
        topic, partition, offset = acknowledged.topic(), acknowledged.partition(), acknowledged.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        if outgoing is not None and delivery is not None:
            producer_events_total.labels(kind=kind_of(outgoing.event).value, outcome="acknowledged").inc()
            delivery.set_result(Acknowledged(topic, partition, offset, outgoing.digest))

    def _failed(self, number: int, error: KafkaError | None) -> None:
        if error is not None and error.code() in _NEVER:
            self._spool.acknowledge(number)
            self._fail(number, self._broker.why(error), unreachable=False)
        else:
            self._trouble.set()

    def _dropped(self, first: int, end: int) -> None:
        # A callback of the delivery may publish, and the spool's own thread must not wait for that.
        self._dropped_ranges.append((first, end))

    def _fail_dropped(self) -> None:
        while self._dropped_ranges:
            for number in range(*self._dropped_ranges.popleft()):
                self._fail(number, "the spool was full, and this was one of its oldest events", unreachable=True)

    def _fail(self, number: int, why: str, *, unreachable: bool) -> None:
        outgoing, delivery = self._open.pop(number, (None, None))
        if outgoing is not None and delivery is not None:
            producer_events_total.labels(kind=kind_of(outgoing.event).value, outcome="failed").inc()
            where = self._broker.where
            delivery.set_exception(
                NotDeliveredError(outgoing.event, outgoing.digest, why=why, where=where, unreachable=unreachable)
            )

    def _start_over(self) -> None:
        self._broker.producer.purge()
        while not self._in_flight.drained(_POLL_S) and not self._closing.is_set():
            pass
        self._closing.wait(START_OVER_S)
        self._broker = self._new_broker()
        self._trouble.clear()
        self._spool.rewind()

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._broker.producer.poll(_POLL_S)
            self._fail_dropped()


def _without_value(outgoing: Outgoing) -> Outgoing:
    """Return the message without its bytes, which are in the spool."""
    return Outgoing(outgoing.event, outgoing.digest, outgoing.topic, outgoing.key, [], b"")
