from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.events import InputEvent, Kind, kind_of


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
