"""One stream's events: first the backfill, then the live ones, each exactly once.

The stream's position holds the next offset of each partition. An event from Kafka, the catalog or the buffer is
delivered only if it is not before the position, and advances it. So the sources may overlap.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from headrace.gateway.auth.principal import Principal
from headrace.gateway.live.announcements import MissedRange
from headrace.gateway.live.event_buffer import EventFilter, StreamedEvent, state_change_event
from headrace.gateway.live.resume_token import REQUESTS, ResumeToken
from headrace.gateway.live.topic_tail import STATE_CHANGES_MAX, TopicTail
from headrace.schemas.topics import PartitionKey

BATCH_EVENTS_MAX = 100
RECORDS_PATH = "/api/v1/records"


class SlowConsumerError(Exception):
    """Raised when a stream falls behind the start of the event buffer."""


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """One event for the client; `id` is the resume token after it."""

    name: str
    id: str
    text: str


class Subscription:
    """A stream of events from a position on. `principal` may be replaced at any time."""

    def __init__(self, tail: TopicTail, position: ResumeToken, event_filter: EventFilter, principal: Principal) -> None:
        """Start at the position."""
        self._tail = tail
        self._position = position
        self._filter = event_filter
        self.principal = principal
        self._cursor: int | None = None  # in the event buffer; None while the backfill is read
        self._is_live = False

    @classmethod
    async def open(
        cls, tail: TopicTail, resume: ResumeToken | None, event_filter: EventFilter, principal: Principal
    ) -> "Subscription":
        """Start at a resume token, or now.

        Raises:
            HeadraceError: Kafka or the catalog does not answer.
        """
        return cls(tail, resume or await tail.latest(), event_filter, principal)

    @property
    def id(self) -> str:
        """The resume token of the current position."""
        return self._position.encode()

    async def reset_beyond_end(self) -> list[ClientEvent]:
        """Reset partitions whose position is beyond their end, and return the `gap` event for them.

        Raises:
            HeadraceError: Kafka or the catalog does not answer.
        """
        ends = await self._tail.ends_before(self._position)
        lost = [MissedRange(key, end, self._position[key]) for key, end in ends.items()]
        for key, end in ends.items():
            self._position.reset(key, end)
        return [self._gap(lost)] if lost else []

    async def next_messages(self, wait_s_max: float) -> list[ClientEvent]:
        """Return the next events; none if there are none within so many seconds.

        Raises:
            SlowConsumerError: the stream fell behind the event buffer.
            HeadraceError: Kafka or the catalog does not answer.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s_max
        while True:
            messages = await self._from_backfill() if self._cursor is None else self._from_buffer(self._cursor)
            if messages:
                return messages
            if self._is_live and self._cursor == self._tail.buffer.end:
                await self._tail.wait_new_events(deadline_s - loop.time())
            else:
                await asyncio.sleep(0)  # a stream whose filter matches little must not block the others
            if loop.time() >= deadline_s:
                return []

    def _from_buffer(self, cursor: int) -> list[ClientEvent]:
        buffer = self._tail.buffer
        if cursor < buffer.first:
            if not buffer.missing(self._position):
                cursor = buffer.first  # the dropped events were not for this stream, or were sent
            elif self._is_live:
                raise SlowConsumerError
            else:
                self._cursor = None
                return []
        events = buffer.read(cursor, BATCH_EVENTS_MAX)
        self._cursor = cursor + len(events)
        self._is_live = self._is_live or self._cursor == buffer.end
        return self._deliver(events)

    async def _from_backfill(self) -> list[ClientEvent]:
        """Read some of what the buffer no longer has; once nothing is missing, continue in the buffer."""
        missing = self._tail.buffer.missing(self._position)
        if not missing:
            self._cursor = self._tail.buffer.first
            return []
        state_changes = missing.pop(REQUESTS, None)
        messages = await self._missed_state_changes(*state_changes) if state_changes is not None else []
        return messages or (await self._missed_announcements(missing) if missing else [])

    async def _missed_state_changes(self, begin: int, end: int) -> list[ClientEvent]:
        changes = await self._tail.state_changes(begin)
        messages = self._deliver(state_change_event(change) for change in changes if change.id < end)
        if len(changes) < STATE_CHANGES_MAX or changes[-1].id >= end:
            self._position.advance(REQUESTS, end)
        return messages

    async def _missed_announcements(self, missing: dict[PartitionKey, tuple[int, int]]) -> list[ClientEvent]:
        backfill = await self._tail.backfill(missing)
        for lost in backfill.lost:
            self._position.advance(lost.key, lost.end)
        messages = [self._gap(backfill.lost)] if backfill.lost else []
        messages += self._deliver(backfill.events)
        for key, offset in backfill.next_offsets.items():
            self._position.advance(key, offset)
        return messages

    def _deliver(self, events: Iterable[StreamedEvent]) -> list[ClientEvent]:
        messages = []
        for event in events:
            if event.offset < self._position[event.key]:
                continue
            self._position.advance(event.key, event.offset + 1)
            if self._filter.matches(event, self.principal):
                messages.append(ClientEvent(event.name, self.id, event.text))
        return messages

    def _gap(self, lost: list[MissedRange]) -> ClientEvent:
        members = {
            "detail": "these events are no longer available; the catalog has the records that they announced",
            "missing": [lost_range.as_json() for lost_range in lost],
            "see": RECORDS_PATH,
        }
        return ClientEvent("gap", self.id, orjson.dumps(members).decode())
