"""The position of a stream of live events, and its text form: the event id, and `Last-Event-ID`. No I/O.

A token holds the next offset of each partition of the announcement topics, and the next change of a request's state. It
identifies no gateway, so every gateway can resume from it. Version 1 is the base64url encoding, without padding, of the
byte 1 followed by LEB128 numbers: the next state change, then for each topic in the order of `Kind` the number of
partitions and their next offsets.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping

from headrace.gateway.problems import Problem, ProblemCode
from headrace.schemas.events import Kind
from headrace.schemas.topics import PartitionKey, ingested_topic

TOPICS = tuple(ingested_topic(kind).name for kind in Kind)
REQUESTS: PartitionKey = ("requests", 0)
"""The state changes of requests: they are in the catalog, and are addressed like a partition."""

TOKEN_CHARACTERS_MAX = 1024  # 4 topics of 40 partitions, each 200 million events long
_VERSION = 1
_NUMBER_BITS_MAX = 63


class ResumeToken:
    """The next offset of each partition; 0 for an unknown one."""

    def __init__(self, offsets: Mapping[PartitionKey, int]) -> None:
        """Start at these offsets."""
        self._offsets = dict(offsets)
        self._encode_all()

    def __getitem__(self, key: PartitionKey) -> int:
        """Return the next offset of a partition."""
        return self._offsets.get(key, 0)

    def advance(self, key: PartitionKey, offset: int) -> None:
        """Move a partition forward to this offset; never back."""
        if offset <= self[key]:
            return
        self._offsets[key] = offset
        if (index := self._indexes.get(key)) is None:
            self._encode_all()  # a new partition
        else:
            self._encoded[index] = _leb128(offset)

    def reset(self, key: PartitionKey, offset: int) -> None:
        """Move a partition to this offset, forward or back."""
        self._offsets[key] = offset
        self._encode_all()

    def encode(self) -> str:
        """Return the token as text."""
        raw = bytes([_VERSION]) + b"".join(self._encoded)
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def _encode_all(self) -> None:
        # Every event gets a token, so the numbers that do not change stay encoded.
        self._encoded = _encoded(self._offsets)
        self._indexes = {key: index for index, key in enumerate(_layout(self._offsets)) if key is not None}


def parse_resume_token(text: str) -> ResumeToken:
    """Parse the text form.

    Raises:
        Problem: the text is not a token (422).
    """
    try:
        if len(text) > TOKEN_CHARACTERS_MAX or not text.isascii():
            raise _malformed()
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if raw[:1] != bytes([_VERSION]):
            raise _malformed()
        numbers = _parse_leb128(raw[1:])
        offsets = {REQUESTS: next(numbers)}
        for topic in TOPICS:
            offsets |= {(topic, partition): next(numbers) for partition in range(_bounded(next(numbers)))}
    except (binascii.Error, StopIteration, RuntimeError):
        raise _malformed() from None
    if next(numbers, None) is not None:
        raise _malformed()
    return ResumeToken(offsets)


def _layout(offsets: Mapping[PartitionKey, int]) -> list[PartitionKey | None]:
    """Return the partitions in the order of the encoding; None stands for a topic's number of partitions."""
    layout: list[PartitionKey | None] = [REQUESTS]
    for topic in TOPICS:
        layout.append(None)
        layout += [(topic, partition) for partition in range(_partition_count(offsets, topic))]
    return layout


def _encoded(offsets: Mapping[PartitionKey, int]) -> list[bytes]:
    encoded = [_leb128(offsets.get(REQUESTS, 0))]
    for topic in TOPICS:
        count = _partition_count(offsets, topic)
        encoded.append(_leb128(count))
        encoded += [_leb128(offsets.get((topic, partition), 0)) for partition in range(count)]
    return encoded


def _partition_count(offsets: Mapping[PartitionKey, int], topic: str) -> int:
    return 1 + max((partition for name, partition in offsets if name == topic), default=-1)


def _bounded(count: int) -> int:
    if count > TOKEN_CHARACTERS_MAX:
        raise _malformed()
    return count


def _leb128(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _parse_leb128(raw: bytes) -> Iterator[int]:
    value, bits = 0, 0
    for byte in raw:
        value |= (byte & 0x7F) << bits
        bits += 7
        if value >> _NUMBER_BITS_MAX:
            raise _malformed()
        if byte < 0x80:
            yield value
            value, bits = 0, 0
    if bits:
        raise _malformed()


def _malformed() -> Problem:
    return Problem(
        422,
        ProblemCode.INVALID,
        "the last event id is invalid",
        hint="omit it to start now, and read /api/v1/records for earlier records",
    )
