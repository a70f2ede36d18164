"""How far a stream of live events has come, and the id that says so: `Last-Event-ID`. No I/O.

An id holds, for each partition of the topics of announcements, the offset to go on at, and the same for the changes of
requests. It names no gateway, so any gateway goes on from it. Version 1 is the base64url, without padding, of the byte
1 and of LEB128 numbers: the next request change, then for each topic in the order of `Kind` how many partitions follow,
and each one's next offset.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from headrace.gateway.problems import Problem, ProblemCode
from headrace.schemas.events import Kind
from headrace.schemas.topics import ingested_topic

TopicPartitionRef: TypeAlias = tuple[str, int]
"""Topic and partition."""

TOPICS = tuple(ingested_topic(kind).name for kind in Kind)
REQUESTS: TopicPartitionRef = ("requests", 0)
"""The changes of requests, which the catalog holds, as if they were a partition."""

ID_CHARACTERS_MAX = 1024  # 4 topics of 40 partitions, each 200 million events long
_VERSION = 1
_NUMBER_BITS_MAX = 63


class ResumeToken:
    """Where a stream goes on, place by place; a place that it does not know is begun at its beginning."""

    def __init__(self, nexts: Mapping[TopicPartitionRef, int]) -> None:
        """Begin there."""
        self._nexts = dict(nexts)
        self._lay_out()

    def __getitem__(self, place: TopicPartitionRef) -> int:
        """Return the next offset of a place."""
        return self._nexts.get(place, 0)

    def advance(self, place: TopicPartitionRef, offset: int) -> None:
        """Go on at this offset, unless that was passed."""
        if offset <= self[place]:
            return
        self._nexts[place] = offset
        if (number := self._index.get(place)) is None:
            self._lay_out()  # a partition that is new
        else:
            self._written[number] = _number(offset)

    def restart(self, place: TopicPartitionRef, offset: int) -> None:
        """Go on at this offset, even if that is back."""
        self._nexts[place] = offset
        self._lay_out()

    def text(self) -> str:
        """Return the id."""
        raw = bytes([_VERSION]) + b"".join(self._written)
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def _lay_out(self) -> None:
        # An id is made for every event, so what does not change of it is kept as it is written.
        self._written = _written(self._nexts)
        self._index = {place: number for number, place in enumerate(_order(self._nexts)) if place is not None}


def parse_position(text: str) -> ResumeToken:
    """Read an id.

    Raises:
        Problem: it is none of ours (422).
    """
    try:
        if len(text) > ID_CHARACTERS_MAX or not text.isascii():
            raise _malformed()
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if raw[:1] != bytes([_VERSION]):
            raise _malformed()
        numbers = _numbers(raw[1:])
        nexts = {REQUESTS: next(numbers)}
        for topic in TOPICS:
            nexts |= {(topic, partition): next(numbers) for partition in range(_bounded(next(numbers)))}
    except (binascii.Error, StopIteration, RuntimeError):
        raise _malformed() from None
    if next(numbers, None) is not None:
        raise _malformed()
    return ResumeToken(nexts)


def _order(nexts: Mapping[TopicPartitionRef, int]) -> list[TopicPartitionRef | None]:
    """Return the places in the order in which an id has them; None stands for a topic's count."""
    order: list[TopicPartitionRef | None] = [REQUESTS]
    for topic in TOPICS:
        order.append(None)
        order += [(topic, partition) for partition in range(_count(nexts, topic))]
    return order


def _written(nexts: Mapping[TopicPartitionRef, int]) -> list[bytes]:
    written = [_number(nexts.get(REQUESTS, 0))]
    for topic in TOPICS:
        count = _count(nexts, topic)
        written.append(_number(count))
        written += [_number(nexts.get((topic, partition), 0)) for partition in range(count)]
    return written


def _count(nexts: Mapping[TopicPartitionRef, int], topic: str) -> int:
    return 1 + max((partition for of, partition in nexts if of == topic), default=-1)


def _bounded(count: int) -> int:
    if count > ID_CHARACTERS_MAX:
        raise _malformed()
    return count


def _number(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _numbers(raw: bytes) -> Iterator[int]:
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
        "the last event id is none that this service gave",
        hint="leave it out to begin now, and read /api/v1/records for what came before",
    )
