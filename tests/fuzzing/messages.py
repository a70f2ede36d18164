"""A fuzz target: whatever bytes a message holds, the worker makes an event or a dead letter of it.

Messages are mutated by their numbers (lengths, branches, values), because a decoder trusts those. Another reader,
written from the Avro specification alone, has to agree with what was decoded.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from faust.types import TP

from headrace.schemas.codec import _RENAMED, encode
from headrace.schemas.events import Clip, Frame, InputEvent, Kind
from headrace.schemas.registry import REGISTRY
from headrace.streams.core.batch_plan import row_batch
from headrace.streams.core.delivery import as_original, redrives_in
from headrace.streams.core.examine import AcceptedDelivery, examine, examine_batch
from headrace.streams.worker.faust.direct_consumer import consumed_message
from headrace.streams.worker.faust.record_reader import Record
from tests.fuzzing.varints import INTERESTING, mutated, read, written
from tests.streams.streams_samples import NOW_US, cid, clip, frame, ldo

_PREFIX_BYTES = 5
_SPLICES = (b"\0", b"\xff\xfe", b"\xed\xa0\x80", b'{"a":', b"]" * 300, b"[" * 300, b"\\u0000", b"1e999", b"ftyp")
_HEADERS = (
    ("traceparent", b"\xff" * 55),
    ("headrace_redrive_of", b"\xc3\x28"),
    ("headrace_redrive_of", b"6b0b5f0a-7d0c-5b0e-9a58-1f6c1f6f2d11"),
    ("headrace_redrive_attempt", "²".encode()),
    ("headrace_redrive_attempt", b"9" * 40),
    ("", None),
)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a message: a number, or what a length said how long it is."""

    start: int
    end: int
    is_number: bool


def seeds() -> list[tuple[Kind, bytes]]:
    """Return messages of every kind, with and without their optional fields."""
    events: list[tuple[Kind, InputEvent]] = [
        (Kind.CID, cid()),
        (Kind.CID, cid("ü" * 30, seen_in="ab" * 32)),
        (Kind.LDO, ldo()),
        (Kind.LDO, ldo(clip_sha256="0" * 64)),
    ]
    for kind, event in ((Kind.FRAME, frame(attributes=b'{"a": 1}')), (Kind.CLIP, clip(about="C-1"))):
        assert isinstance(event, Frame | Clip)
        events += [(kind, event), (kind, replace(event, body=None, claim="staging/plant/camera-1/" + "0" * 64))]
    return [(kind, encode(event)) for kind, event in events]


def try_message(kind: Kind, raw: bytes | None, random: Random) -> bool:
    """Take one message through the worker's decisions; return whether it was accepted.

    Raises:
        AssertionError: it was neither accepted nor refused for a foreseen reason, or not read as it is written.
    """
    headers = random.sample(_HEADERS, random.randrange(3))
    timestamp_ms = random.choice((NOW_US // 1000, None, -1, *INTERESTING))
    record = Record(1, timestamp_ms, None, None, raw, headers)
    message = consumed_message(TP(f"edge.{kind}s.v1", 0), record)
    redrives_in([message])
    outcome = examine(kind, as_original(message, {}))
    if not isinstance(outcome, AcceptedDelivery):
        assert not outcome.reason.startswith("checking the message raised"), outcome.reason
        rows = row_batch(examine_batch(kind, [message]), {})
        assert len(rows.dead_letters) == 1
        return False
    assert raw is not None
    expected = dict(_values(kind, raw))
    actual = {name: getattr(outcome.event, _RENAMED.get(name, name)) for name in expected}
    assert actual == expected, f"read {actual}, written is {expected}"
    return True


def mutations(kind: Kind, raw: bytes, random: Random) -> bytes:
    """Return a message with one to four changes."""
    for _ in range(random.randrange(1, 5)):
        raw = _mutation(kind, raw, random)
    return raw


def _mutation(kind: Kind, raw: bytes, random: Random) -> bytes:
    spans = _spans(kind, raw)
    if not spans or random.random() < 0.1:
        at = random.randrange(len(raw) + 1)
        return raw[:at] + random.randbytes(random.randrange(4)) + raw[at + random.randrange(4) :]
    span = random.choice(spans)
    before, part, after = raw[: span.start], raw[span.start : span.end], raw[span.end :]
    if span.is_number:
        return before + mutated(part, random) + after
    match random.randrange(4):
        case 0:  # with a length that fits
            part = part[: random.randrange(len(part) + 1)] + random.choice(_SPLICES)
            length_at = max((other for other in spans if other.end == span.start), key=lambda other: other.start)
            return raw[: length_at.start] + written(len(part)) + part + after
        case 1:
            return before + after
        case 2:
            return before + part * 2 + after
        case _:
            at = random.randrange(len(part) + 1)
            return before + part[:at] + random.choice(_SPLICES) + part[at:] + after


def _fields(kind: Kind) -> list[tuple[str, list[str]]]:
    """Return the name of each field with its branches; a field that is no union has one."""
    fields = REGISTRY.newest(kind.value.capitalize()).published["fields"]
    return [
        (field["name"], [branch if isinstance(branch, str) else branch["type"] for branch in _listed(field["type"])])
        for field in fields
    ]


def _listed(branches: Any) -> list[Any]:
    return branches if isinstance(branches, list) else [branches]


def _spans(kind: Kind, raw: bytes) -> list[Span]:
    """Return the spans of a message as far as it can be read."""
    spans: list[Span] = []
    at = _PREFIX_BYTES
    try:
        for _, branches in _fields(kind):
            branch = branches[0]
            if len(branches) > 1:
                start, (number, at) = at, read(raw, at)
                spans.append(Span(start, at, is_number=True))
                branch = branches[number]
                if branch == "null":
                    continue
            start, (number, at) = at, read(raw, at)
            spans.append(Span(start, at, is_number=True))
            if branch in {"string", "bytes"}:
                if not 0 <= number <= len(raw) - at:
                    break
                spans.append(Span(at, at + number, is_number=False))
                at += number
    except (ValueError, IndexError):
        pass
    return spans


def _values(kind: Kind, raw: bytes) -> Iterator[tuple[str, object]]:
    """Read a message as Avro's specification says, and in no other way; raises AssertionError where it cannot."""
    assert struct.unpack(">bI", raw[:_PREFIX_BYTES]) == (0, REGISTRY.newest(kind.value.capitalize()).id)
    at = _PREFIX_BYTES
    try:
        for name, branches in _fields(kind):
            branch = branches[0]
            if len(branches) > 1:
                number, at = read(raw, at)
                assert 0 <= number < len(branches), "a branch that does not exist"
                branch = branches[number]
            if branch == "null":
                yield name, None
                continue
            number, at = read(raw, at)
            if branch in {"int", "long"}:
                yield name, number
                continue
            assert 0 <= number <= len(raw) - at, "a length beyond the message"
            part, at = raw[at : at + number], at + number
            yield name, part.decode() if branch == "string" else part
    except ValueError as error:
        raise AssertionError(f"accepted, and cannot be read: {error}") from None
    assert at == len(raw), "bytes after the end"
