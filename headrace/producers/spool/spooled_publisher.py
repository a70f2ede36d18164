"""A publisher that works without a broker: events are durable on this machine's disk until Kafka acknowledges them.

librdkafka gets the events in the order of the spool and sends them in that order, without a time limit. Only an event
that Kafka will never accept, also in a batch of its own, is put into the spool's quarantine. After any other error a
new producer starts at the oldest event that is not acknowledged; an event that is thereby sent twice adds a sighting.

A waiting event takes no memory: it is on the disk, and its delivery is kept only while somebody waits for it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakValueDictionary

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as KafkaMessage

from headrace.producers.broker import Broker, InFlight
from headrace.producers.delivery import Acknowledged, Delivery, NotDeliveredError, SpooledError
from headrace.producers.outgoing import Dispatch
from headrace.producers.publisher import EVENT_OVERHEAD_BYTES, INTERRUPTED_CLOSE_S_MAX
from headrace.producers.spool.segments import SpoolEntry
from headrace.producers.spool.spool import SPOOL_BYTES_MAX, Spool
from headrace.runtime.acl import REFUSED
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import producer_events_total
from headrace.runtime.settings import Settings
from headrace.schemas.events import InputEvent
from headrace.schemas.headers import DAMAGED, DROPPED, SPOOL, Headers
from headrace.schemas.limits import MIB
from headrace.schemas.topics import kind_of_topic
from headrace.store.blobs.blob_store import Blobs

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
        self._where = (bootstrap, client or {}, in_flight_bytes_max)
        self._refused: set[str] = set()  # topics of which an ACL is missing
        self._is_alone = False  # whether each event is sent as a batch of its own
        self._broker = self._new_broker()
        self._open: WeakValueDictionary[int, _SpooledDelivery] = WeakValueDictionary()
        self._awaited: dict[int, _SpooledDelivery] = {}
        self._lock = threading.Lock()
        self._dropped_ranges: deque[tuple[int, int]] = deque()
        self._trouble = threading.Event()
        self._closing = threading.Event()
        self._closed = threading.Event()
        self._spool = Spool(directory, bytes_max=spool_bytes_max, dropped=self._dropped)
        self.earlier = self._spool.waiting
        """The number of events that an earlier process left in the spool."""
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
        outgoing = self._dispatch.outgoing(event, body_path, traceparent)
        delivery = _SpooledDelivery(outgoing.event, outgoing.digest, self._await)
        self._spool.append(
            SpoolEntry(outgoing.topic, outgoing.key, outgoing.headers, outgoing.value),
            partial(self._numbered, delivery),
        )
        return delivery

    def release_quarantined(self) -> int:
        """Publish what is in the quarantine again, once its cause is gone; return the number of events."""
        return self._spool.release()

    @property
    def quarantined(self) -> int:
        """The number of events that Kafka would not take, and that the quarantine keeps."""
        return self._spool.quarantined

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
        for number in list(self._open.keys()):
            self._leave(number)

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
            elif self._is_alone and self._spool.waiting == 0:
                self._is_alone = False
                self._trouble.set()  # the next producer makes batches again

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
                on_delivery=partial(self._settle, number, size_bytes, message.headers),
            )
        except (KafkaException, BufferError) as error:
            self._in_flight.leave(size_bytes)
            refused = error.args[0] if isinstance(error, KafkaException) else None
            if refused is not None and refused.code() in _NEVER:
                self._quarantine(number, message, refused)
            else:
                self._trouble.set()

    def _losses(self, key: bytes) -> list[tuple[str, bytes]]:
        counts = ((DROPPED, self._spool.dropped_of(key.decode(errors="replace"))), (DAMAGED, self._spool.damaged))
        losses = [(name, str(count).encode()) for name, count in counts if count]
        return [*losses, (SPOOL, self._spool.spool_id.encode())] if losses else []

    def _settle(
        self, number: int, size_bytes: int, headers: Headers, error: KafkaError | None, acknowledged: KafkaMessage
    ) -> None:
        if error is None:
            reached(CrashPoint.SPOOL_AFTER_SEND)
            self._spool.acknowledge(number)
            self._acknowledged(number, acknowledged)
        elif error.code() not in _NEVER:
            self._note_refused(error, acknowledged.topic() or "")
            self._trouble.set()
        elif self._is_alone:
            self._quarantine(number, _entry_of(acknowledged, headers), error)
        else:
            # Kafka's limit holds for a batch: which of its events is too large shows when each goes alone.
            self._is_alone = True
            self._trouble.set()
        self._in_flight.leave(size_bytes)

    def _note_refused(self, error: KafkaError, topic: str) -> None:
        """Log once that an ACL is missing: the events of the topic wait until it is there."""
        if error.code() in REFUSED and topic not in self._refused:
            self._refused.add(topic)
            get_log().error(Action.REFUSED, topic=topic, why=self._broker.why(error, topic), hint="docs/security.md")

    def _acknowledged(self, number: int, acknowledged: KafkaMessage) -> None:
        topic, partition, offset = acknowledged.topic(), acknowledged.partition(), acknowledged.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        self._refused.discard(topic)
        _count(topic, "acknowledged")
        if (delivery := self._taken(number)) is not None:
            delivery.set_result(Acknowledged(topic, partition, offset, delivery.digest))

    def _quarantine(self, number: int, message: SpoolEntry, error: KafkaError) -> None:
        try:
            self._spool.quarantine(number, message)
        except HeadraceError:  # the disk is full: the event stays in the spool, and is tried again
            self._trouble.set()
            return
        _count(message.topic, "failed")
        why = self._broker.why(error)
        get_log().error(Action.REFUSED, topic=message.topic, why=why, hint="docs/spool.md, Quarantine")
        self._fail(number, f"{why}; it is in the quarantine of the spool", unreachable=False)

    def _numbered(self, delivery: "_SpooledDelivery", number: int) -> None:
        with self._lock:
            delivery.number = number
            self._open[number] = delivery
            if delivery.is_awaited:
                self._awaited[number] = delivery

    def _await(self, delivery: "_SpooledDelivery") -> None:
        """Keep a delivery that has a callback: nothing else may refer to it."""
        with self._lock:
            delivery.is_awaited = True
            if delivery.number in self._open:
                self._awaited[delivery.number] = delivery

    def _taken(self, number: int) -> "_SpooledDelivery | None":
        with self._lock:
            delivery = self._open.pop(number, None)  # first: it is a weak reference
            self._awaited.pop(number, None)
        return delivery

    def _dropped(self, first: int, end: int) -> None:
        # A callback of the delivery may publish, and the spool's own thread must not wait for that.
        self._dropped_ranges.append((first, end))

    def _fail_dropped(self) -> None:
        while self._dropped_ranges:
            for number in range(*self._dropped_ranges.popleft()):
                self._fail(number, "the spool was full, and this was one of its oldest events", unreachable=True)

    def _fail(self, number: int, why: str, *, unreachable: bool) -> None:
        if (delivery := self._taken(number)) is not None:
            where = self._broker.where
            delivery.set_exception(
                NotDeliveredError(delivery.event, delivery.digest, why=why, where=where, unreachable=unreachable)
            )

    def _leave(self, number: int) -> None:
        if (delivery := self._taken(number)) is not None:
            why = "it is in the spool and will be sent when the spool is opened again"
            delivery.set_exception(
                SpooledError(delivery.event, delivery.digest, why=why, where=self._broker.where, unreachable=True)
            )

    def _new_broker(self) -> Broker:
        bootstrap, client, in_flight_bytes_max = self._where
        if self._is_alone:
            client = {**client, "batch.num.messages": 1}
        return Broker(bootstrap, client, in_flight_bytes_max=in_flight_bytes_max, delivery_s_max=0)

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


class _SpooledDelivery(Delivery):
    """The delivery of an event in the spool, which is kept by whoever waits for it."""

    def __init__(self, event: InputEvent, digest: str, awaited: "Callable[[_SpooledDelivery], None]") -> None:
        """`awaited` is called when the delivery gets a callback."""
        super().__init__()
        self.event = event
        self.digest = digest
        self.number = -1
        self.is_awaited = False
        self._tell_awaited = awaited
        self.set_running_or_notify_cancel()

    def add_done_callback(self, fn: "Callable[[Delivery], object]") -> None:
        """Call `fn` with the delivery once it has its result; it is kept until then."""
        self._tell_awaited(self)
        super().add_done_callback(fn)


def _entry_of(refused: KafkaMessage, headers: Headers) -> SpoolEntry:
    """Return the entry of a message that was not delivered; a delivery report does not have its headers."""
    return SpoolEntry(refused.topic() or "", refused.key() or b"", headers, refused.value() or b"")


def _count(topic: str, outcome: str) -> None:
    kind = kind_of_topic(topic)
    if kind is not None:
        producer_events_total.labels(kind=kind.value, outcome=outcome).inc()
