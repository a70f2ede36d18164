"""A publisher that needs no broker to be there: events are durable on this machine's disk until Kafka has them.

What is read from the spool goes to librdkafka in its order, which sends it in that order for as long as it takes. Only
what Kafka will never take is given up. Anything else that goes wrong starts over with a new producer, at the oldest
event that is not acknowledged; what is thereby sent again is a sighting.
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
from confluent_kafka import Message as Told

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

DROPPED = "headrace-dropped"  # header: how many events of this source its spool had to drop until now
DAMAGED = "headrace-damaged"  # header: how many events of any source could not be read again from the spool
IN_FLIGHT_BYTES_MAX = 32 * MIB
CLOSE_S_MAX = 10.0
START_OVER_S = 1.0
_POLL_S = 0.1
# librdkafka gives an event up by itself only for these: it would be refused for ever.
_NEVER = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD})


class SpooledPublisher:
    """Publishes through a spool in `directory`, which one process at a time may use; may be used from several threads.

    The broker may be away, also at the start. A body above INLINE_BYTES_MAX is staged in `blobs` first, which must be
    there for that. What an earlier process left in the spool is published first. Where the spool is full, the oldest
    events are dropped: their deliveries raise NotDelivered, and the header `headrace-dropped` tells how many.

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
        """Open the spool and begin to publish what is in it."""
        self._dispatch = Dispatch(blobs)
        in_flight_bytes_max = min(IN_FLIGHT_BYTES_MAX, spool_bytes_max // 4)
        self._in_flight = InFlight(in_flight_bytes_max)
        self._new_broker = partial(
            Broker, bootstrap, client or {}, in_flight_bytes_max=in_flight_bytes_max, delivery_s_max=0
        )
        self._broker = self._new_broker()
        self._open: dict[int, tuple[Outgoing, Delivery]] = {}
        self._gone: deque[tuple[int, int]] = deque()
        self._trouble = threading.Event()
        self._closing = threading.Event()
        self._closed = threading.Event()
        self._spool = Spool(directory, bytes_max=spool_bytes_max, dropped=self._dropped)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._poll, self._feed)]
        for thread in self._threads:
            thread.start()

    @classmethod
    def from_settings(cls, settings: Settings, directory: Path, **options: Any) -> Self:
        """Return a publisher for the service that the settings name; `options` as those of the class."""
        given: dict[str, Any] = {"client": client_config(settings), "blobs": Blobs.from_settings(settings)}
        return cls(settings.kafka_bootstrap, directory, **(given | options))

    def publish(self, event: InputEvent, *, body_path: Path | None = None, traceparent: str | None = None) -> Delivery:
        """Return once the event is durable in the spool; the delivery has its result when Kafka acknowledged it.

        May be repeated: agents deduplicate.

        Raises:
            Rejected: the event can never be ingested. HeadraceError: spool_full, spool_write_failed, spool_closed, or a
                large body finds no blob store. In all these cases the event is not in the spool.
        """
        going, delivery = self._dispatch.outgoing(event, body_path, traceparent), Delivery()
        delivery.set_running_or_notify_cancel()
        self._spool.append(
            SpoolEntry(going.topic, going.key, going.headers, going.value),
            lambda number: self._open.__setitem__(number, (_without_value(going), delivery)),
        )
        return delivery

    @property
    def waiting(self) -> int:
        """How many events are in the spool and not acknowledged yet."""
        return self._spool.waiting

    def flush(self, timeout_s: float) -> int:
        """Wait until the spool is empty, at most `timeout_s` seconds; returns how many events are left in it."""
        deadline = time.monotonic() + timeout_s
        while (left := self._spool.waiting) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def close(self, timeout_s: float = CLOSE_S_MAX) -> None:
        """Wait for the spool to become empty, then leave; what is left in it is published when it is opened again.

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
        self._tell_gone()
        for number in list(self._open):
            self._fail(number, "it is in the spool, and is sent when the spool is opened again", unreachable=True)

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
                self._hand_over(*read)

    def _hand_over(self, number: int, message: SpoolEntry) -> None:
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

    def _settle(self, number: int, size_bytes: int, error: KafkaError | None, told: Told) -> None:
        if error is None:
            reached(CrashPoint.SPOOL_AFTER_SEND)
            self._spool.acknowledge(number)
            self._acknowledged(number, told)
        else:
            self._failed(number, error)
        self._in_flight.leave(size_bytes)

    def _acknowledged(self, number: int, told: Told) -> None:
        going, delivery = self._open.pop(number, (None, None))
        topic, partition, offset = told.topic(), told.partition(), told.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        if going is not None and delivery is not None:
            producer_events_total.labels(kind=kind_of(going.event).value, outcome="acknowledged").inc()
            delivery.set_result(Acknowledged(topic, partition, offset, going.digest))

    def _failed(self, number: int, error: KafkaError | None) -> None:
        if error is not None and error.code() in _NEVER:
            self._spool.acknowledge(number)
            self._fail(number, self._broker.why(error), unreachable=False)
        else:
            self._trouble.set()

    def _dropped(self, first: int, end: int) -> None:
        # Whoever waits for the delivery may publish when it is told, which the spool's own thread must not wait for.
        self._gone.append((first, end))

    def _tell_gone(self) -> None:
        while self._gone:
            for number in range(*self._gone.popleft()):
                self._fail(number, "the spool was full, and this was among the oldest events in it", unreachable=True)

    def _fail(self, number: int, why: str, *, unreachable: bool) -> None:
        going, delivery = self._open.pop(number, (None, None))
        if going is not None and delivery is not None:
            producer_events_total.labels(kind=kind_of(going.event).value, outcome="failed").inc()
            where = self._broker.where
            delivery.set_exception(
                NotDeliveredError(going.event, going.digest, why=why, where=where, unreachable=unreachable)
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
            self._tell_gone()


def _without_value(going: Outgoing) -> Outgoing:
    """Return what names the event, so that what waits in the spool is not in memory too."""
    return Outgoing(going.event, going.digest, going.topic, going.key, [], b"")
