"""Messages that can never be ingested, each with the code that its dead letter must carry.

No producer of ours would send them, so they go to Kafka directly, as somebody else's broken device would send them.
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
    """One such message: on which kind's topic, its value, and the code it must be rejected with."""

    code: RejectCode
    kind: Kind
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What poison is made of: whose it seems to be, a good frame, and chance."""

    origin: Origin
    frame: Frame
    random: Random


Build = Callable[[Ingredients], Poison]


def empty_value(_: Ingredients) -> Poison:
    """Return a message without a value."""
    return Poison(RejectCode.EMPTY_VALUE, Kind.FRAME, None)


def not_framed(given: Ingredients) -> Poison:
    """Return bytes of another format altogether."""
    return Poison(RejectCode.NOT_FRAMED, Kind.CID, b"{" + given.random.randbytes(40))


def unknown_schema(given: Ingredients) -> Poison:
    """Return a message of a schema that was never published."""
    return Poison(RejectCode.UNKNOWN_SCHEMA, Kind.LDO, b"\x00" + _NEVER_PUBLISHED_ID + given.random.randbytes(40))


def undecodable(given: Ingredients) -> Poison:
    """Return half a frame."""
    whole = encode(given.frame)
    return Poison(RejectCode.UNDECODABLE, Kind.FRAME, whole[: len(whole) // 2])


def missing_field(given: Ingredients) -> Poison:
    """Return an LDO without its prediction."""
    body = b'{"sensor_data":{},"context":{}}'
    return Poison(RejectCode.MISSING_FIELD, Kind.LDO, encode(replace(_ldo(given), body=body)))


def absurd_time(given: Ingredients) -> Poison:
    """Return a scan by a clock that was never set."""
    return Poison(RejectCode.ABSURD_TIME, Kind.CID, encode(replace(_cid(given), captured_at_us=_1999_US)))


def not_an_image(given: Ingredients) -> Poison:
    """Return a frame whose bytes are text."""
    return Poison(RejectCode.NOT_AN_IMAGE, Kind.FRAME, encode(_with_body(given.frame, b"no image " * 40)))


def too_large(given: Ingredients) -> Poison:
    """Return an LDO over its limit."""
    body = _LDO_BODY.ljust(LDO_BODY_BYTES_MAX + 1)
    return Poison(RejectCode.TOO_LARGE, Kind.LDO, encode(replace(_ldo(given), body=body)))


def not_a_video(given: Ingredients) -> Poison:
    """Return a clip whose bytes are an image."""
    body = given.frame.body or b""
    clip = Clip(
        **fields_of(given.origin), sha256=sha256_hex(body), duration_us=5_000_000, size_bytes=len(body), body=body
    )
    return Poison(RejectCode.NOT_A_VIDEO, Kind.CLIP, encode(clip))


def wrong_event(given: Ingredients) -> Poison:
    """Return a scan on the topic of frames."""
    return Poison(RejectCode.WRONG_EVENT, Kind.FRAME, encode(_cid(given)))


def wrong_digest(given: Ingredients) -> Poison:
    """Return a frame that hashes to another digest than it declares."""
    return Poison(
        RejectCode.DIGEST_MISMATCH, Kind.FRAME, encode(replace(given.frame, sha256=sha256_hex(b"another frame")))
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


def _cid(given: Ingredients) -> Cid:
    return Cid(**fields_of(given.origin), code=f"PART-X-{given.random.randrange(1_000_000):06d}")


def _ldo(given: Ingredients) -> Ldo:
    return Ldo(**fields_of(given.origin), ldo_id=f"broken-{given.random.randrange(1_000_000)}", body=_LDO_BODY)


def _with_body(frame: Frame, body: bytes) -> Frame:
    return replace(frame, body=body, sha256=sha256_hex(body), size_bytes=len(body))
