"""The message that announces a row of the outbox: topic, key, headers and bytes. No I/O, no clock."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from headrace.schemas.codec import encode
from headrace.schemas.events import DeadLetter, Ingested, Kind
from headrace.schemas.headers import Headers, headers_for
from headrace.schemas.limits import NAME_BYTES_MAX
from headrace.schemas.topics import DEAD_LETTERS, Topic, ingested_topic
from headrace.store.catalog.outbox import PENDING_BYTES_MAX, Pending, PublishedEvent
from headrace.streams.relay.ingested_bytes import ingested_bytes

OUTPUT_TOPICS: dict[str, Topic] = {topic.name: topic for topic in (*map(ingested_topic, Kind), DEAD_LETTERS)}

ABRIDGED = "the message is too large to be announced; its bytes are in the catalog"
ABRIDGED_ATTRIBUTES = b'{"headrace":"attributes too large to announce: the catalog has them"}'

_HEADER_BYTES_MAX = 10  # two lengths around each header
_BATCH_BYTES_MAX = 128  # a batch's head of 61 bytes, a record's lengths, time and offset

_EVENT_ID = "ce_id"
_SUBJECT = "ce_subject"


@dataclass(frozen=True, slots=True)
class Announcement:
    """One message to publish."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    is_abridged: bool = False

    @property
    def size_bytes(self) -> int:
        """Its size in Kafka's log, as a batch of its own."""
        headers = sum([len(name) + len(value) + _HEADER_BYTES_MAX for name, value in self.headers])
        return len(self.key) + len(self.value) + headers + _BATCH_BYTES_MAX


class OversizeError(ValueError):
    """Raised for a row whose announcement is too large for its topic even when it is abridged."""


@dataclass(frozen=True, slots=True)
class AnnouncementBatch:
    """Messages with their rows, both in the order of the outbox, and rows that cannot be announced, with the reason.

    `oversize` counts the rows that were abridged or are too large.
    """

    messages: list[Announcement]
    rows: list[Pending]
    skipped: list[tuple[Pending, str]]
    oversize: int


def transaction_limits(rows_max: int, failures: int) -> tuple[int, int]:
    """Return how many rows and how many bytes the next transaction may take, after so many failures in a row.

    Each failure halves both, down to a single row: a slow broker could time out again on as large a transaction.
    """
    return max(1, rows_max >> failures), max(1, PENDING_BYTES_MAX >> failures)


def announce(row: Pending, bytes_max: int) -> Announcement:
    """Return the message that announces a row, of at most `bytes_max` bytes as it stands in Kafka's log.

    A larger one is abridged: without the bytes of the dead letter or the attributes of the record, which the catalog
    has, and with a note.

    Raises:
        OversizeError: it is still larger.
        ValueError: the row does not fit its event's schema, or there is nothing left to announce; it says which.
    """
    if row.event is None:
        raise ValueError("its record, blob or dead letter is no longer in the catalog")
    subject, key = _about(row.event)
    headers = headers_for(row.event, subject=subject, traceparent=row.traceparent)
    message = Announcement(row.topic, key, _encoded(row.event), headers)
    if message.size_bytes <= bytes_max:
        return message
    message = replace(message, value=_encoded(_abridged(row.event)), is_abridged=True)
    if message.size_bytes > bytes_max:
        raise OversizeError(f"it is {message.size_bytes} bytes, and {row.topic} takes {bytes_max}")
    return message


def announce_each(rows: Iterable[Pending], bytes_max: Callable[[Pending], int]) -> AnnouncementBatch:
    """Return the messages of the rows; a row that cannot be announced must not hold up the others."""
    messages, announced, skipped, oversize = [], [], [], 0
    for row in rows:
        try:
            message = announce(row, bytes_max(row))
        except Exception as error:  # noqa: BLE001 - a retry of the row would fail again
            skipped.append((row, f"{type(error).__name__}: {error}"))
            oversize += isinstance(error, OversizeError)
        else:
            messages.append(message)
            announced.append(row)
            oversize += message.is_abridged
    return AnnouncementBatch(messages, announced, skipped, oversize)


def published_event(headers: Iterable[tuple[str, bytes | None]]) -> PublishedEvent | None:
    """Return the event that a message's headers name, or None if the relay did not write the message."""
    values = {name: value.decode("utf-8", "replace") for name, value in headers if value is not None}
    try:
        return PublishedEvent(UUID(values[_EVENT_ID]), values.get(_SUBJECT))
    except (KeyError, ValueError):
        return None


def _encoded(event: Ingested | DeadLetter) -> bytes:
    return encode(event) if isinstance(event, DeadLetter) else ingested_bytes(event)


def _abridged(event: Ingested | DeadLetter) -> Ingested | DeadLetter:
    if isinstance(event, DeadLetter):
        # A mirrored message, or one of headers only, can be larger than what Kafka accepts from us.
        return replace(event, key=None, value=None, headers=b"[]", reason=f"{event.reason} ({ABRIDGED})")
    return replace(event, attributes=ABRIDGED_ATTRIBUTES)


def _about(event: Ingested | DeadLetter) -> tuple[str, bytes]:
    """Return the event's subject, and the key that keeps its source's events in order."""
    match event:
        case Ingested():
            return event.digest, event.source_id.encode()
        case DeadLetter():
            # By the contract a message's key is its source; one that cannot be a name is not used.
            key = event.key if event.key and len(event.key) <= NAME_BYTES_MAX else event.topic.encode()
            return f"{event.topic}/{event.partition}/{event.offset}", key
