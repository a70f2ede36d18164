"""Deliveries of published events, and their counts."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.events import Clip, Frame, InputEvent, Kind, Ldo, kind_of


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Kafka's acknowledgement by all in-sync replicas; `digest` is the digest of the record."""

    topic: str
    partition: int
    offset: int
    digest: str


# The result of `Publisher.publish`: `delivery.result(timeout)` blocks and raises NotDeliveredError on failure;
# `await asyncio.wrap_future(delivery)` waits in asyncio. It cannot be cancelled, because the event is already sent.
Delivery: TypeAlias = Future[Acknowledged]


class EventPublisher(Protocol):
    """A `Publisher` or a `SpooledPublisher`, as devices and cameras use it."""

    def publish(self, event: InputEvent, *, body_path: Path | None = None, traceparent: str | None = None) -> Delivery:
        """Publish an event."""


class NotDeliveredError(HeadraceError):
    """Kafka did not acknowledge an event. It may still arrive; publishing it again is safe.

    `kind`, `source_id`, `site`, `sequence` and `digest` identify the event.
    """

    def __init__(self, event: InputEvent, digest: str, *, why: str, where: str, unreachable: bool) -> None:
        kind = kind_of(event)
        super().__init__(
            "not_delivered",
            f"{kind} {event.sequence} of source {event.source_id} was not acknowledged: {why}",
            where=where,
            hint="check that the broker is running and has the topics, then publish the event again",
            exit_code=Exit.UNREACHABLE if unreachable else Exit.FAILED,
        )
        self.kind: Kind = kind
        self.source_id = event.source_id
        self.site = event.site
        self.sequence = event.sequence
        self.digest = digest


class SpooledError(NotDeliveredError):
    """The event is in the spool: it is durable, and is sent when the spool is opened again."""


FAULTS_NAMED_MAX = 100  # errors kept as text; further ones are only counted


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """Events published, acknowledged, failed and left in the spool, and the size of their bodies in bytes."""

    published: int
    acknowledged: int
    failed: int
    bytes: int
    by_kind: dict[Kind, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    spooled: int = 0


class DeliveryStats:
    """Counts deliveries; thread-safe."""

    def __init__(self) -> None:
        """Start at zero."""
        self._changed = threading.Condition()
        self._by_kind = dict.fromkeys(Kind, 0)
        self._acknowledged = self._failed = self._spooled = self._bytes = self._settled = 0
        self._faults: list[str] = []

    def add(self, event: InputEvent, delivery: Delivery) -> None:
        """Count a published event, and later its result."""
        with self._changed:
            self._by_kind[kind_of(event)] += 1
            self._bytes += _body_bytes(event)
        delivery.add_done_callback(self._settle)

    def fail(self, fault: str) -> None:
        """Count something that could not be published."""
        with self._changed:
            self._note(fault)

    def wait(self, timeout_s: float) -> bool:
        """Wait until every delivery has its result; return False on timeout."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._open() > 0:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    def counts(self) -> DeliveryCounts:
        """Return the current counts."""
        with self._changed:
            return DeliveryCounts(
                published=sum(self._by_kind.values()),
                acknowledged=self._acknowledged,
                failed=self._failed,
                bytes=self._bytes,
                by_kind=dict(self._by_kind),
                faults=tuple(self._faults),
                spooled=self._spooled,
            )

    def _open(self) -> int:
        return sum(self._by_kind.values()) - self._settled

    def _settle(self, delivery: Delivery) -> None:
        error = delivery.exception()
        with self._changed:
            self._settled += 1
            if error is None:
                self._acknowledged += 1
            elif isinstance(error, SpooledError):
                self._spooled += 1
            else:
                self._note(str(error))
            self._changed.notify_all()

    def _note(self, fault: str) -> None:
        self._failed += 1
        if len(self._faults) < FAULTS_NAMED_MAX:
            self._faults.append(fault)


def _body_bytes(event: InputEvent) -> int:
    match event:
        case Frame() | Clip():
            return event.size_bytes
        case Ldo():
            return len(event.body)
        case _:
            return len(event.code.encode())
