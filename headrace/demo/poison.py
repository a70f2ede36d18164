"""Poison messages, which can never be ingested, each with the expected code of its dead letter.

The producers of Headrace refuse them, so they are published to Kafka directly.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from headrace.producers.source import fields_of
from headrace.schemas.codec import encode
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Cid, Clip, Frame, Kind, Ldo, Origin
from headrace.schemas.limits import LDO_BODY_BYTES_MAX
from headrace.schemas.reject import RejectCode

_LDO_BODY = b'{"sensor_data":{},"context":{},"prediction":{}}'
_1999_US = 915_148_800_000_000
_NEVER_PUBLISHED_ID = (0x7FFFFFFF).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Poison:
    """A poison message: the kind of its topic, its value, and the expected reject code."""

    code: RejectCode
    kind: Kind
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a poison message is built from: an origin, a good frame, and randomness."""

    origin: Origin
    frame: Frame
    random: Random


Build = Callable[[Ingredients], Poison]


def empty_value(_: Ingredients) -> Poison:
    """Return a message without a value."""
    return Poison(RejectCode.EMPTY_VALUE, Kind.FRAME, None)


def not_framed(parts: Ingredients) -> Poison:
    """Return bytes in another format."""
    return Poison(RejectCode.NOT_FRAMED, Kind.CID, b"{" + parts.random.randbytes(40))


def unknown_schema(parts: Ingredients) -> Poison:
    """Return a message with an unknown schema id."""
    return Poison(RejectCode.UNKNOWN_SCHEMA, Kind.LDO, b"\x00" + _NEVER_PUBLISHED_ID + parts.random.randbytes(40))


def undecodable(parts: Ingredients) -> Poison:
    """Return a truncated frame."""
    whole = encode(parts.frame)
    return Poison(RejectCode.UNDECODABLE, Kind.FRAME, whole[: len(whole) // 2])


def missing_field(parts: Ingredients) -> Poison:
    """Return an LDO without its prediction."""
    body = b'{"sensor_data":{},"context":{}}'
    return Poison(RejectCode.MISSING_FIELD, Kind.LDO, encode(replace(_ldo(parts), body=body)))


def absurd_time(parts: Ingredients) -> Poison:
    """Return a scan from 1999, as by an unset clock."""
    return Poison(RejectCode.ABSURD_TIME, Kind.CID, encode(replace(_cid(parts), captured_at_us=_1999_US)))


def not_an_image(parts: Ingredients) -> Poison:
    """Return a frame whose body is text."""
    return Poison(RejectCode.NOT_AN_IMAGE, Kind.FRAME, encode(_with_body(parts.frame, b"no image " * 40)))


def too_large(parts: Ingredients) -> Poison:
    """Return an LDO over the size limit."""
    body = _LDO_BODY.ljust(LDO_BODY_BYTES_MAX + 1)
    return Poison(RejectCode.TOO_LARGE, Kind.LDO, encode(replace(_ldo(parts), body=body)))


def not_a_video(parts: Ingredients) -> Poison:
    """Return a clip whose body is an image."""
    body = parts.frame.body or b""
    clip = Clip(
        **fields_of(parts.origin), sha256=sha256_hex(body), duration_us=5_000_000, size_bytes=len(body), body=body
    )
    return Poison(RejectCode.NOT_A_VIDEO, Kind.CLIP, encode(clip))


def wrong_event(parts: Ingredients) -> Poison:
    """Return a scan on the frames topic."""
    return Poison(RejectCode.WRONG_EVENT, Kind.FRAME, encode(_cid(parts)))


def wrong_digest(parts: Ingredients) -> Poison:
    """Return a frame whose declared digest does not match its body."""
    return Poison(
        RejectCode.DIGEST_MISMATCH, Kind.FRAME, encode(replace(parts.frame, sha256=sha256_hex(b"another frame")))
    )


POISONS: tuple[Build, ...] = (
    not_framed,
    unknown_schema,
    empty_value,
    missing_field,
    not_an_image,
    absurd_time,
    too_large,
    undecodable,
    not_a_video,
    wrong_event,
)


def _cid(parts: Ingredients) -> Cid:
    return Cid(**fields_of(parts.origin), code=f"PART-X-{parts.random.randrange(1_000_000):06d}")


def _ldo(parts: Ingredients) -> Ldo:
    return Ldo(**fields_of(parts.origin), ldo_id=f"broken-{parts.random.randrange(1_000_000)}", body=_LDO_BODY)


def _with_body(frame: Frame, body: bytes) -> Frame:
    return replace(frame, body=body, sha256=sha256_hex(body), size_bytes=len(body))
