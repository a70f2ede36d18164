"""A message as Kafka delivered it, and the original position of one that was redriven.

A redriven message is recorded where its source first published it: its sighting has the topic, partition and offset of
that first delivery. So a redrive that publishes twice, because it was killed before it could note the first time, adds
nothing: the sighting's key, or the dead letter's id, exists already. A message that is rejected again remains the
same dead letter, with one more attempt in its history.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self, TypeAlias
from uuid import UUID

from headrace.schemas.catalog_rows import Original
from headrace.schemas.digest import dead_letter_id
from headrace.schemas.headers import Redrive, redrive_of
from headrace.schemas.limits import HEADER_BYTES
from headrace.schemas.mirrored import SitePosition, origin_of
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.topics import PartitionKey

HeaderPairs: TypeAlias = tuple[tuple[str, bytes], ...]


class UnreadableBytes(bytes):
    """The value of a message that cannot be read: the bytes of its record or of its record batch, and why."""

    code: RejectCode
    reason: str

    @classmethod
    def of(cls, raw: bytes | memoryview, code: RejectCode, reason: str) -> Self:
        """Return these bytes, to be rejected with this code and reason."""
        unreadable = cls(raw)
        unreadable.code, unreadable.reason = code, reason
        return unreadable


def held_bytes(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]] | None) -> int:
    """Return the bytes that a message holds in memory."""
    pairs_bytes = sum([HEADER_BYTES + len(name) + len(content or b"") for name, content in headers or ()])
    return len(key or b"") + len(value or b"") + pairs_bytes


@dataclass(frozen=True, slots=True)
class ConsumedMessage:
    """One message as Kafka delivered it: its position and its bytes.

    With `redrive` it is a redriven dead letter, and its position is that of its first delivery. `origin` is where a
    mirrored message was at its site.
    """

    topic: str
    partition: int
    offset: int
    timestamp_us: int
    key: bytes | None
    value: bytes | None
    headers: HeaderPairs
    redrive: Redrive | None = None
    origin: SitePosition | None = None

    @property
    def position(self) -> tuple[str, int, int]:
        """Topic, partition and offset."""
        return self.topic, self.partition, self.offset

    @property
    def recorded_position(self) -> tuple[str, int, int]:
        """The position that the catalog keeps: of a mirrored message, partition and offset at its site."""
        if self.origin is None:
            return self.position
        return self.topic, self.origin.partition, self.origin.offset


def progress_of(messages: Iterable[ConsumedMessage]) -> dict[PartitionKey, int]:
    """Return the offset after the last of the messages of each (topic, partition), at the places of their delivery."""
    progress: dict[PartitionKey, int] = {}
    for message in messages:
        key = message.topic, message.partition
        progress[key] = max(progress.get(key, 0), message.offset + 1)
    return dict(sorted(progress.items()))


def redrives_in(messages: Iterable[ConsumedMessage]) -> list[UUID]:
    """Return the ids of the dead letters that messages of a batch declare to be, sorted."""
    declared = (redrive_of(message.headers) for message in messages if message.headers)
    return sorted({redrive.dead_letter_id for redrive in declared if redrive is not None})


def as_original(message: ConsumedMessage, originals: Mapping[tuple[UUID, int], Original]) -> ConsumedMessage:
    """Map a redriven message to its original position; return any other message unchanged."""
    declared = redrive_of(message.headers)
    original = originals.get((declared.dead_letter_id, declared.attempt)) if declared else None
    if declared is None or original is None or original.topic != message.topic:
        return message
    # The id covers the bytes: under another dead letter's id no other message can be ingested.
    if dead_letter_id(original.topic, original.partition, original.offset, message.value) != declared.dead_letter_id:
        return message
    return replace(
        message,
        partition=original.partition,
        offset=original.offset,
        redrive=Redrive(declared.dead_letter_id, declared.attempt),
    )


def with_origin(message: ConsumedMessage) -> ConsumedMessage:
    """Return a mirrored message with its origin, and any other message unchanged.

    So is one whose origin is missing or invalid: its position here is all that is known of it.
    """
    try:
        origin = origin_of(message.topic, message.headers)
    except RejectedError:
        return message  # examined, it becomes a dead letter
    return message if origin is None else replace(message, origin=origin)
