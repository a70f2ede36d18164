"""The message that announces a row of the outbox: topic, key, headers and bytes. No I/O, no clock."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from headrace.schemas.codec import encode
from headrace.schemas.events import DeadLetter, Ingested, Kind
from headrace.schemas.headers import Headers, headers_for
from headrace.schemas.limits import ENVELOPE_BYTES_MAX, NAME_BYTES_MAX
from headrace.schemas.topics import DEAD_LETTERS, Topic, ingested_topic
from headrace.store.catalog.outbox import PENDING_BYTES_MAX, Pending
from headrace.streams.relay.ingested_bytes import ingested_bytes

OUTPUT_TOPICS: dict[str, Topic] = {topic.name: topic for topic in (*map(ingested_topic, Kind), DEAD_LETTERS)}

# The limit holds for the message as it stands in the log, with its key, headers and the batch around it.
DEAD_LETTER_BYTES_MAX = DEAD_LETTERS.message_bytes_max - ENVELOPE_BYTES_MAX
INGESTED_BYTES_MAX = min(ingested_topic(kind).message_bytes_max for kind in Kind) - ENVELOPE_BYTES_MAX
ABRIDGED = "the message is too large to be announced; its bytes are in the catalog"
ABRIDGED_ATTRIBUTES = b'{"headrace":"attributes too large to announce: the catalog has them"}'

_HEADER_BYTES_MAX = 10  # two lengths around each header
_BATCH_BYTES_MAX = 128  # a batch's head of 61 bytes, a record's lengths, time and offset

_EVENT_ID = "ce_id"


@dataclass(frozen=True, slots=True)
class Announcement:
    """One message to publish."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers

    @property
    def size_bytes(self) -> int:
        """Its size in Kafka's log, as a batch of its own."""
        headers = sum(len(name) + len(value) + _HEADER_BYTES_MAX for name, value in self.headers)
        return len(self.key) + len(self.value) + headers + _BATCH_BYTES_MAX


@dataclass(frozen=True, slots=True)
class AnnouncementBatch:
    """Messages with their rows, both in the order of the outbox, and rows that cannot be announced, with the reason."""

    messages: list[Announcement]
    rows: list[Pending]
    skipped: list[tuple[Pending, str]]


def transaction_limits(rows_max: int, failures: int) -> tuple[int, int]:
    """Return how many rows and how many bytes the next transaction may take, after so many failures in a row.

    Each failure halves both, down to a single row: a slow broker could time out again on as large a transaction.
    """
    return max(1, rows_max >> failures), max(1, PENDING_BYTES_MAX >> failures)


def announce(row: Pending) -> Announcement:
    """Return the message that announces a row.

    Raises:
        ValueError: the row does not fit its event's schema, or there is nothing left to announce; it says which.
    """
    if row.event is None:
        raise ValueError("its record, blob or dead letter is no longer in the catalog")
    subject, key = _about(row.event)
    headers = headers_for(row.event, subject=subject, traceparent=row.traceparent)
    message = Announcement(row.topic, key, _value(row.event), headers)
    if message.size_bytes > OUTPUT_TOPICS[row.topic].message_bytes_max:
        raise ValueError(f"it is {message.size_bytes} bytes, more than {row.topic} allows")
    return message


def announce_each(rows: Iterable[Pending]) -> AnnouncementBatch:
    """Return the messages of the rows; a row that cannot be announced must not hold up the others."""
    batch = AnnouncementBatch([], [], [])
    for row in rows:
        try:
            batch.messages.append(announce(row))
            batch.rows.append(row)
        except Exception as error:  # noqa: BLE001 - a retry of the row would fail again
            batch.skipped.append((row, f"{type(error).__name__}: {error}"))
    return batch


def event_id_of(headers: Iterable[tuple[str, bytes | None]]) -> UUID | None:
    """Return the event id in a message's headers, or None if the relay did not write the message."""
    for name, value in headers:
        if name == _EVENT_ID and value is not None:
            try:
                return UUID(value.decode("ascii"))
            except ValueError:
                return None
    return None


def _value(event: Ingested | DeadLetter) -> bytes:
    if isinstance(event, DeadLetter):
        return _dead_letter_bytes(event)
    value = ingested_bytes(event)
    if len(value) <= INGESTED_BYTES_MAX:
        return value
    # The contract keeps attributes far below this; larger ones in the catalog must not hold up the other rows.
    return ingested_bytes(replace(event, attributes=ABRIDGED_ATTRIBUTES))


def _dead_letter_bytes(event: DeadLetter) -> bytes:
    value = encode(event)
    if len(value) <= DEAD_LETTER_BYTES_MAX:
        return value
    # A mirrored message, or one of headers only, can be larger than what Kafka accepts from us. It must not hold up the
    # rows after it, and its bytes are in the catalog.
    return encode(replace(event, key=None, value=None, headers=b"[]", reason=f"{event.reason} ({ABRIDGED})"))


def _about(event: Ingested | DeadLetter) -> tuple[str, bytes]:
    """Return the event's subject, and the key that keeps its source's events in order."""
    match event:
        case Ingested():
            return event.digest, event.source_id.encode()
        case DeadLetter():
            # By the contract a message's key is its source; one that cannot be a name is not used.
            key = event.key if event.key and len(event.key) <= NAME_BYTES_MAX else event.topic.encode()
            return f"{event.topic}/{event.partition}/{event.offset}", key
