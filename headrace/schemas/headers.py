"""Message headers: CloudEvents 1.0 in Kafka's binary mode, and the W3C trace context.

Any Kafka tool can show what a message is without decoding it. Sources: CloudEvents "Kafka Protocol Binding" 1.0.2,
section 3.2; W3C "Trace Context" level 1, sections 3.2 and 3.3.

Between messages a trace context is one text: the `traceparent`, and after a space the `tracestate` where there is one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import quote
from uuid import UUID

from headrace.schemas.events import CaptureRequest, Cid, Clip, DeadLetter, Event, Frame, Ingested, Ldo, Origin
from headrace.schemas.limits import CLOCK_SET_US_MIN

Headers: TypeAlias = list[tuple[str, bytes]]

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
DROPPED = "headrace-dropped"  # how many events of this source its spool has dropped since it was created
DAMAGED = "headrace-damaged"  # how many events of any source in the spool were damaged since it was created
SPOOL = "headrace-spool"  # which spool counts them
CLOCK = "headrace-clock"  # its value is "unset" where the source had no clock, and its capture time says nothing
REPLAY = "replay"  # its value is the id of the replay that published an event again; a worker refuses such a message
_TRACE_NAMES = frozenset({TRACEPARENT, TRACESTATE})
_LOSS_NAMES = frozenset({DROPPED, DAMAGED, SPOOL})
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[a-z0-9][a-z0-9_*/@-]*=[\x20-\x7e]+")
_TRACESTATE_BYTES_MAX = 512  # of which the standard asks to pass them on
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def headers_for(event: Event, *, subject: str, traceparent: str | None) -> Headers:
    """Return the headers of an event; `subject` identifies the record, message or request that it is about."""
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", _id(event).encode()),
        ("ce_source", _source(event).encode()),
        ("ce_type", f"headrace.{type(event).__name__.lower()}.v1".encode()),
        ("ce_time", rfc3339(_time_us(event)).encode()),
        ("ce_subject", subject.encode()),
        ("content-type", b"application/vnd.apache.avro+confluent"),
    ]
    if isinstance(event, Origin) and event.captured_at_us < CLOCK_SET_US_MIN:
        headers.append((CLOCK, b"unset"))
    if traceparent is not None:
        parent, _, state = traceparent.partition(" ")
        headers.append((TRACEPARENT, parent.encode()))
        headers += [(TRACESTATE, state.encode())] if state else []
    return headers


def traceparent_of(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """Return the trace context in a message's headers, or None if there is none or it is malformed.

    A `tracestate` that is malformed or too long is left out.
    """
    texts = dict(reversed(_texts(headers, _TRACE_NAMES)))  # the first of each
    parent, state = texts.get(TRACEPARENT, ""), texts.get(TRACESTATE, "")
    if not _TRACEPARENT.fullmatch(parent):
        return None
    is_kept = len(state) <= _TRACESTATE_BYTES_MAX and _TRACESTATE.fullmatch(state)
    return f"{parent} {state}" if is_kept else parent


def _texts(headers: Iterable[tuple[str, bytes | None]], names: frozenset[str]) -> list[tuple[str, str]]:
    return [(name, value.decode("ascii", "replace")) for name, value in headers if name in names and value is not None]


def new_traceparent(random_bytes: bytes) -> str:
    """Return a sampled trace context of 24 random bytes, whose ids must not be all zeros."""
    return f"00-{random_bytes[:16].hex()}-{random_bytes[16:24].hex()}-01"


def unix_us_of(time: datetime) -> int:
    """Return a time in microseconds since 1970; a time without a zone is UTC."""
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def rfc3339(time_us: int) -> str:
    """Return microseconds since 1970 as RFC 3339 text in UTC."""
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat().replace("+00:00", "Z")


def _id(event: Event) -> str:
    # A source's events are distinguished by their sequence numbers; all other events have ids.
    match event:
        case Cid() | Frame() | Clip() | Ldo():
            return str(event.sequence)
        case CaptureRequest():
            return event.request_id
        case _:
            return event.event_id


def _source(event: Event) -> str:
    return "/headrace" if isinstance(event, DeadLetter) else _source_of(event.site, event.source_id)


@lru_cache(maxsize=4096)
def _source_of(site: str, source_id: str) -> str:
    # CloudEvents asks for a URI-reference (RFC 3986), in which a name may hold any character once it is encoded.
    return f"/sites/{quote(site, safe='')}/sources/{quote(source_id, safe='')}"


def _time_us(event: Event) -> int:
    match event:
        case DeadLetter():
            return event.rejected_at_us
        case Ingested():
            return event.ingested_at_us
        case CaptureRequest():
            return event.requested_at_us
        case _:
            return event.captured_at_us


_COUNT_DIGITS_MAX = 18
_SPOOL_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class SpoolLosses:
    """What a source's spool reports: totals since the spool was created; `spool` is empty where it does not say."""

    spool: str
    dropped: int
    damaged: int


def losses_of(headers: Iterable[tuple[str, bytes | None]]) -> SpoolLosses | None:
    """Return the losses in a message's headers, or None if there are none or they are malformed."""
    texts = dict(_texts(headers, _LOSS_NAMES))
    if not texts:
        return None
    dropped, damaged = _count(texts.get(DROPPED)), _count(texts.get(DAMAGED))
    if not dropped and not damaged:
        return None
    spool = texts.get(SPOOL, "")
    return SpoolLosses(spool if _SPOOL_ID.fullmatch(spool) else "", dropped, damaged)


def _count(text: str | None) -> int:
    is_count = text is not None and text.isascii() and text.isdecimal() and len(text) <= _COUNT_DIGITS_MAX
    return int(text) if text is not None and is_count else 0


REDRIVE_OF = "headrace_redrive_of"
REDRIVE_ATTEMPT = "headrace_redrive_attempt"
REDRIVE_ORIGIN = "headrace_redrive_origin"

_REDRIVE_NAMES = frozenset({REDRIVE_OF, REDRIVE_ATTEMPT, REDRIVE_ORIGIN})
_ATTEMPT_DIGITS_MAX = 9


@dataclass(frozen=True, slots=True)
class Redrive:
    """A message that claims to be a redriven dead letter."""

    dead_letter_id: UUID
    attempt: int


def redrive_headers(original: Iterable[tuple[str, bytes]], redrive: Redrive, origin: tuple[str, int, int]) -> Headers:
    """Return the original headers and those of the redrive; `origin` is topic, partition, offset."""
    own = [(name, value) for name, value in original if name not in _REDRIVE_NAMES]
    topic, partition, offset = origin
    return [
        *own,
        (REDRIVE_OF, str(redrive.dead_letter_id).encode()),
        (REDRIVE_ATTEMPT, str(redrive.attempt).encode()),
        (REDRIVE_ORIGIN, f"{topic}/{partition}/{offset}".encode()),
    ]


def redrive_of(headers: Iterable[tuple[str, bytes | None]]) -> Redrive | None:
    """Return the redrive in a message's headers, or None if there is none or it is malformed."""
    texts = dict(_texts(headers, _REDRIVE_NAMES))
    if not texts:
        return None
    attempt = texts.get(REDRIVE_ATTEMPT, "")
    try:
        letter = UUID(texts.get(REDRIVE_OF, ""))
    except ValueError:
        return None
    if not (attempt.isascii() and attempt.isdecimal() and len(attempt) <= _ATTEMPT_DIGITS_MAX):
        return None
    return Redrive(letter, int(attempt))
