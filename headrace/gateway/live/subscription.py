"""One stream's way through the events: first what it missed, then what comes, nothing twice and nothing left out.

Its position says of each place what comes next. Whatever is read, from Kafka, the catalog or the ring, is handed out
only if it is not before that, and moves it. So where one reading ends and the next begins need not fit exactly.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from headrace.gateway.auth.principal import Principal
from headrace.gateway.live.backfill import LostRange
from headrace.gateway.live.resume_token import REQUESTS, ResumeToken, TopicPartitionRef
from headrace.gateway.live.stream_event import EventFilter, StreamedEvent, of_change
from headrace.gateway.live.topic_tail import CHANGES_AT_ONCE_MAX, TopicTail

AT_ONCE_MAX = 100
RECORDS_PATH = "/api/v1/records"


class SlowConsumerError(Exception):
    """Events come faster than the stream takes them."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One event for the stream; after it the stream stands at `id`."""

    name: str
    id: str
    text: str


class Subscription:
    """A stream from a position on. `caller` may be replaced while it lasts."""

    def __init__(self, tail: TopicTail, position: ResumeToken, wanted: EventFilter, caller: Principal) -> None:
        """Begin there."""
        self._tail = tail
        self._position = position
        self._wanted = wanted
        self.caller = caller
        self._at: int | None = None  # in the ring; None while what is missing has to be read elsewhere
        self._live = False

    @classmethod
    async def begin(
        cls, tail: TopicTail, resume: ResumeToken | None, wanted: EventFilter, caller: Principal
    ) -> "Subscription":
        """Begin at a position, or now.

        Raises:
            HeadraceError: Kafka or the catalog do not answer.
        """
        return cls(tail, resume or await tail.now(), wanted, caller)

    @property
    def id(self) -> str:
        """Where the stream stands."""
        return self._position.text()

    async def check(self) -> list[Sent]:
        """Go back to the end where the position lies behind it, and return what says so.

        Raises:
            HeadraceError: Kafka or the catalog do not answer.
        """
        beyond = await self._tail.ahead(self._position)
        lost = [LostRange(place, end, self._position[place]) for place, end in beyond.items()]
        for place, end in beyond.items():
            self._position.restart(place, end)
        return [self._gap(lost)] if lost else []

    async def take(self, wait_s_max: float) -> list[Sent]:
        """Return the next events; none where none came for so many seconds.

        Raises:
            TooSlow: the stream has fallen behind what the ring holds.
            HeadraceError: Kafka or the catalog do not answer.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s_max
        while True:
            sent = await self._missed() if self._at is None else self._from_ring(self._at)
            if sent:
                return sent
            if self._live and self._at == self._tail.ring.end:
                await self._tail.news(until_s - loop.time())
            else:
                await asyncio.sleep(0)  # a stream that wants little of much must not keep the others waiting
            if loop.time() >= until_s:
                return []

    def _from_ring(self, at: int) -> list[Sent]:
        ring = self._tail.ring
        if at < ring.first:
            if not ring.missing(self._position):
                at = ring.first  # what went by was not for this stream, or had been sent
            elif self._live:
                raise SlowConsumerError
            else:
                self._at = None
                return []
        found = ring.since(at, AT_ONCE_MAX)
        self._at = at + len(found)
        self._live = self._live or self._at == ring.end
        return self._pass(found)

    async def _missed(self) -> list[Sent]:
        """Read some of what the ring has no more; once there is nothing such, go on in the ring."""
        missing = self._tail.ring.missing(self._position)
        if not missing:
            self._at = self._tail.ring.first
            return []
        changes = missing.pop(REQUESTS, None)
        sent = await self._missed_changes(*changes) if changes is not None else []
        return sent or (await self._missed_announcements(missing) if missing else [])

    async def _missed_changes(self, begin: int, end: int) -> list[Sent]:
        found = await self._tail.changes(begin)
        sent = self._pass(of_change(one) for one in found if one.id < end)
        if len(found) < CHANGES_AT_ONCE_MAX or found[-1].id >= end:
            self._position.advance(REQUESTS, end)
        return sent

    async def _missed_announcements(self, missing: dict[TopicPartitionRef, tuple[int, int]]) -> list[Sent]:
        part = await self._tail.gap(missing)
        for lost in part.lost:
            self._position.advance(lost.place, lost.end)
        sent = [self._gap(part.lost)] if part.lost else []
        sent += self._pass(part.events)
        for place, offset in part.nexts.items():
            self._position.advance(place, offset)
        return sent

    def _pass(self, found: Iterable[StreamedEvent]) -> list[Sent]:
        sent = []
        for one in found:
            if one.offset < self._position[one.place]:
                continue
            self._position.advance(one.place, one.offset + 1)
            if self._wanted.admits(one, self.caller):
                sent.append(Sent(one.name, self.id, one.text))
        return sent

    def _gap(self, lost: list[LostRange]) -> Sent:
        said = {
            "detail": "these events are no more to be had here; what they announced is in the catalog",
            "missing": [one.as_json() for one in lost],
            "see": RECORDS_PATH,
        }
        return Sent("gap", self.id, orjson.dumps(said).decode())
