"""Live events: their JSON, who receives them, and the buffer of the newest ones. No I/O.

All streams of a gateway read the same buffer, each with a cursor of its own and without a queue. A slow stream thus
costs no memory: its cursor falls behind the start of the buffer, and the stream is closed.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import orjson

from headrace.gateway.auth.principal import Principal
from headrace.gateway.live.resume_token import REQUESTS, ResumeToken
from headrace.schemas.events import Ingested
from headrace.schemas.headers import rfc3339
from headrace.schemas.limits import MIB
from headrace.schemas.topics import PartitionKey
from headrace.store.requests.ingest_requests import StateEvent

KINDS = ("cid", "frame", "clip", "ldo", "request")
"""The kinds by which a stream may be filtered."""

BUFFER_EVENTS_MAX = 10_000
BUFFER_BYTES_MAX = 16 * MIB
_OVERHEAD_BYTES = 400  # memory of an event in addition to its text
_TIMES = {"captured_at_us": "captured_at", "ingested_at_us": "ingested_at"}
_FIELDS = tuple(field.name for field in fields(Ingested))


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """One event: its partition and offset, its source, and its JSON text."""

    name: str
    kind: str
    site: str
    source_id: str
    key: PartitionKey
    offset: int
    text: str

    @property
    def size_bytes(self) -> int:
        """Approximate memory of the event."""
        return len(self.text) + _OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The filter of a stream; None does not restrict."""

    kinds: frozenset[str] | None = None
    site: str | None = None
    source_id: str | None = None

    def matches(self, event: StreamedEvent, principal: Principal) -> bool:
        """Return whether the stream carries this event to this principal."""
        return (
            (self.kinds is None or event.kind in self.kinds)
            and self.site in {None, event.site}
            and self.source_id in {None, event.source_id}
            and principal.can_access(event.site, event.source_id)
        )


def announcement_event(announcement: Ingested, key: PartitionKey, offset: int) -> StreamedEvent:
    """Return an announcement as a live event: its fields, times as RFC 3339, attributes as JSON."""
    members: dict[str, Any] = {}
    for name in _FIELDS:
        value = getattr(announcement, name)
        if name in _TIMES:
            members[_TIMES[name]] = rfc3339(value)
        elif name == "attributes":
            members[name] = _json_or_none(value)
        else:
            members[name] = value
    return StreamedEvent(
        "ingested", announcement.kind, announcement.site, announcement.source_id, key, offset, _text(members)
    )


def state_change_event(change: StateEvent) -> StreamedEvent:
    """Return a request's change of state as a live event."""
    members = {
        "request_id": str(change.request_id),
        "site": change.site,
        "source_id": change.source_id,
        "state": change.state,
        "detail": _json_or_none(change.detail.encode()),
        "at": rfc3339(int(change.at_s * 1_000_000)),
    }
    return StreamedEvent("request", "request", change.site, change.source_id, REQUESTS, change.id, _text(members))


class EventBuffer:
    """The newest events, each with a sequence number from `first` up to `end`, exclusive.

    It holds every event of a partition from offset `first_offsets` up to `next_offsets`, exclusive.
    """

    def __init__(self, events_max: int = BUFFER_EVENTS_MAX, bytes_max: int = BUFFER_BYTES_MAX) -> None:
        """Start empty."""
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._events: deque[StreamedEvent] = deque()
        self._size_bytes = 0
        self.first = 0
        self.first_offsets: dict[PartitionKey, int] = {}
        self.next_offsets: dict[PartitionKey, int] = {}

    @property
    def end(self) -> int:
        """The sequence number of the next event."""
        return self.first + len(self._events)

    def add_partitions(self, offsets: Mapping[PartitionKey, int]) -> None:
        """Add partitions with their first offsets; known partitions do not change."""
        self.first_offsets = {**offsets, **self.first_offsets}
        self.next_offsets = {**offsets, **self.next_offsets}

    def add(self, event: StreamedEvent) -> None:
        """Append the next event of its partition, and drop the oldest events beyond the limits."""
        if event.offset < self.next_offsets.get(event.key, 0):
            return  # read twice, because a reader was reopened
        self._events.append(event)
        self._size_bytes += event.size_bytes
        self.next_offsets[event.key] = event.offset + 1
        while len(self._events) > self._events_max or self._size_bytes > self._bytes_max:
            oldest = self._events.popleft()
            self._size_bytes -= oldest.size_bytes
            self.first_offsets[oldest.key] = oldest.offset + 1
            self.first += 1

    def skip_to(self, key: PartitionKey, offset: int) -> None:
        """Note that a partition has no event before this offset."""
        self.next_offsets[key] = max(offset, self.next_offsets.get(key, 0))

    def read(self, sequence: int, events_max: int) -> list[StreamedEvent]:
        """Return the events from a sequence number on, at most so many."""
        begin = sequence - self.first
        return [self._events[index] for index in range(begin, min(begin + events_max, len(self._events)))]

    def missing(self, position: ResumeToken) -> dict[PartitionKey, tuple[int, int]]:
        """Return the offsets that a stream at this position needs and the buffer no longer has: begin and end."""
        return {key: (position[key], first) for key, first in self.first_offsets.items() if position[key] < first}


def _text(members: dict[str, Any]) -> str:
    return orjson.dumps(members).decode()


def _json_or_none(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
