"""What to say about a row of the outbox: topic, key, headers and bytes. No I/O, no clock."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from schemas.codec import encode
from schemas.events import DeadLetter, Ingested, Kind
from schemas.headers import Headers, headers_for
from schemas.limits import ENVELOPE_BYTES_MAX, NAME_BYTES_MAX
from schemas.topics import DEAD_LETTERS, Topic, ingested_topic
from store.outbox import Pending
from streams.relay.ingested_bytes import ingested_bytes

OUTPUT_TOPICS: dict[str, Topic] = {topic.name: topic for topic in (*map(ingested_topic, Kind), DEAD_LETTERS)}

# The limit holds for the message as it stands in the log, with its key, headers and the batch around it.
DEAD_LETTER_BYTES_MAX = DEAD_LETTERS.message_bytes_max - ENVELOPE_BYTES_MAX
ABRIDGED = "too large to be said here: the catalog has its bytes"

_EVENT_ID = "ce_id"


@dataclass(frozen=True, slots=True)
class Announcement:
    """One message to publish."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


def announce(row: Pending) -> Announcement:
    """Return the message that says what the row stands for.

    Raises:
        ValueError: the row does not fit its event's schema; the sentence names the field.
    """
    subject, key = _about(row.event)
    headers = headers_for(row.event, subject=subject, traceparent=row.traceparent)
    value = ingested_bytes(row.event) if isinstance(row.event, Ingested) else _dead_letter_bytes(row.event)
    return Announcement(row.topic, key, value, headers)


def event_id_of(headers: Iterable[tuple[str, bytes | None]]) -> UUID | None:
    """Return the event id among a message's headers, or None where somebody else wrote the message."""
    for name, value in headers:
        if name == _EVENT_ID and value is not None:
            try:
                return UUID(value.decode("ascii"))
            except ValueError:
                return None
    return None


def _dead_letter_bytes(event: DeadLetter) -> bytes:
    value = encode(event)
    if len(value) <= DEAD_LETTER_BYTES_MAX:
        return value
    # A message that a mirror brought, or one of headers only, can be larger than what Kafka takes from us. It must not
    # hold up what comes after it, and its bytes are safe where they are.
    return encode(replace(event, key=None, value=None, headers=b"[]", reason=f"{event.reason} ({ABRIDGED})"))


def _about(event: Ingested | DeadLetter) -> tuple[str, bytes]:
    """Return what the event speaks of, and the key under which its source's events stay in order."""
    match event:
        case Ingested():
            return event.digest, event.source_id.encode()
        case DeadLetter():
            # By the contract a message's key is its source; one that cannot be a name says nothing.
            key = event.key if event.key and len(event.key) <= NAME_BYTES_MAX else event.topic.encode()
            return f"{event.topic}/{event.partition}/{event.offset}", key
