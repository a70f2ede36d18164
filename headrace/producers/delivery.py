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
    """Kafka has the event on every replica that it must be on; `digest` is its record's."""

    topic: str
    partition: int
    offset: int
    digest: str


# What `Publisher.publish` returns: `delivery.result(timeout)` blocks for the result and raises NotDelivered where there
# is none, `await asyncio.wrap_future(delivery)` waits in asyncio. It cannot be cancelled: the event is on its way.
Delivery: TypeAlias = Future[Acknowledged]


class EventPublisher(Protocol):
    """What devices and cameras hand their events to: a `Publisher`, or a `SpooledPublisher`."""

    def publish(self, event: InputEvent, *, body_path: Path | None = None, traceparent: str | None = None) -> Delivery:
        """Hand an event over."""


class NotDeliveredError(HeadraceError):
    """An event that Kafka did not acknowledge. It may still arrive; publishing it again is safe.

    `kind`, `source_id`, `site`, `sequence` and `digest` say which event it was.
    """

    def __init__(self, event: InputEvent, digest: str, *, why: str, where: str, unreachable: bool) -> None:
        kind = kind_of(event)
        super().__init__(
            "not_delivered",
            f"{kind} {event.sequence} of source {event.source_id} was not acknowledged: {why}",
            where=where,
            hint="check that the broker runs and has the topics, then publish the event again",
            exit_code=Exit.UNREACHABLE if unreachable else Exit.FAILED,
        )
        self.kind: Kind = kind
        self.source_id = event.source_id
        self.site = event.site
        self.sequence = event.sequence
        self.digest = digest


FAULTS_NAMED_MAX = 100  # of what failed; the others are only counted


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """How many events were handed over, what became of them, and the bytes of their bodies."""

    published: int
    acknowledged: int
    failed: int
    bytes: int
    by_kind: dict[Kind, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


class DeliveryStats:
    """Counts deliveries; may be used from several threads."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._changed = threading.Condition()
        self._by_kind = dict.fromkeys(Kind, 0)
        self._acknowledged = self._failed = self._bytes = self._settled = 0
        self._faults: list[str] = []

    def add(self, event: InputEvent, delivery: Delivery) -> None:
        """Count an event that was handed over, and its result once there is one."""
        with self._changed:
            self._by_kind[kind_of(event)] += 1
            self._bytes += _body_bytes(event)
        delivery.add_done_callback(self._settle)

    def fail(self, what: str) -> None:
        """Count what could not even be handed over."""
        with self._changed:
            self._note(what)

    def wait(self, timeout_s: float) -> bool:
        """Wait until every delivery has its result; False when the time is over before."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._open() > 0:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    def counts(self) -> DeliveryCounts:
        """Return the counts as they are now."""
        with self._changed:
            return DeliveryCounts(
                published=sum(self._by_kind.values()),
                acknowledged=self._acknowledged,
                failed=self._failed,
                bytes=self._bytes,
                by_kind=dict(self._by_kind),
                faults=tuple(self._faults),
            )

    def _open(self) -> int:
        return sum(self._by_kind.values()) - self._settled

    def _settle(self, delivery: Delivery) -> None:
        error = delivery.exception()
        with self._changed:
            self._settled += 1
            if error is None:
                self._acknowledged += 1
            else:
                self._note(str(error))
            self._changed.notify_all()

    def _note(self, what: str) -> None:
        self._failed += 1
        if len(self._faults) < FAULTS_NAMED_MAX:
            self._faults.append(what)


def _body_bytes(event: InputEvent) -> int:
    match event:
        case Frame() | Clip():
            return event.size_bytes
        case Ldo():
            return len(event.body)
        case _:
            return len(event.code.encode())
