"""What a stream of live events carries, as JSON, and who gets it. No I/O."""

from dataclasses import dataclass, fields
from typing import Any

import orjson

from headrace.gateway.auth.principal import Principal
from headrace.gateway.live.resume_token import REQUESTS, TopicPartitionRef
from headrace.schemas.events import Ingested
from headrace.schemas.headers import rfc3339
from headrace.store.requests.requests import StateEvent

KINDS = ("cid", "frame", "clip", "ldo", "request")
"""What a stream can be narrowed to."""

_OVERHEAD_BYTES = 400  # what a happening costs in memory beside its text


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """One event: where it stands, of which source it is, and its JSON text."""

    name: str
    kind: str
    site: str
    source_id: str
    place: TopicPartitionRef
    offset: int
    text: str

    @property
    def size_bytes(self) -> int:
        """What it costs in memory, roughly."""
        return len(self.text) + _OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What a stream is narrowed to; None is no bound."""

    kinds: frozenset[str] | None = None
    site: str | None = None
    source_id: str | None = None

    def admits(self, one: StreamedEvent, caller: Principal) -> bool:
        """Say whether this stream carries it, to this caller."""
        return (
            (self.kinds is None or one.kind in self.kinds)
            and self.site in {None, one.site}
            and self.source_id in {None, one.source_id}
            and caller.can_access(one.site, one.source_id)
        )


_TIMES = {"captured_at_us": "captured_at", "ingested_at_us": "ingested_at"}
_NAMES = tuple(field.name for field in fields(Ingested))


def of_announcement(event: Ingested, place: TopicPartitionRef, offset: int) -> StreamedEvent:
    """Return an announcement as it is streamed: its own fields, times as RFC 3339, attributes as the JSON they are."""
    said: dict[str, Any] = {}
    for name in _NAMES:
        value = getattr(event, name)
        if name in _TIMES:
            said[_TIMES[name]] = rfc3339(value)
        elif name == "attributes":
            said[name] = _json_or_none(value)
        else:
            said[name] = value
    return StreamedEvent("ingested", event.kind, event.site, event.source_id, place, offset, _text(said))


def of_change(event: StateEvent) -> StreamedEvent:
    """Return a change of a request's state as it is streamed."""
    said = {
        "request_id": str(event.request_id),
        "site": event.site,
        "source_id": event.source_id,
        "state": event.state,
        "detail": _json_or_none(event.detail.encode()),
        "at": rfc3339(int(event.at_s * 1_000_000)),
    }
    return StreamedEvent("request", "request", event.site, event.source_id, REQUESTS, event.id, _text(said))


def _text(said: dict[str, Any]) -> str:
    return orjson.dumps(said).decode()


def _json_or_none(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
