"""What the messages of a feed say. No I/O."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from headrace.gateway.live.close_codes import NOT_TEXT, REFUSED, CloseReason
from headrace.gateway.uploads.metadata import LdoMetadata, parse_metadata, required_time_us
from headrace.schemas.digest import is_digest
from headrace.schemas.json_guard import members, parse_object
from headrace.schemas.limits import INLINE_BYTES_MAX, KIB, LDO_BODY_BYTES_MAX
from headrace.schemas.reject import RejectCode, RejectedError

HEADER_BYTES_MAX = LDO_BODY_BYTES_MAX + 64 * KIB  # the largest is an LDO
SEQ_MAX = 2**53 - 1  # what every JSON reader keeps exactly
_OF_THE_FEED = frozenset({"type", "seq"})


class FeedMessageError(Exception):
    """The feed cannot go on after this message."""

    def __init__(self, ending: CloseReason) -> None:
        super().__init__(ending.reason)
        self.ending = ending


@dataclass(frozen=True, slots=True)
class Header:
    """A text message: of which type, its number, and everything that it says."""

    type: str
    seq: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FrameSaid:
    """What a frame's header says of it."""

    source_id: str | None
    site: str | None
    captured_at_us: int | None
    sha256: str | None
    size_bytes: int

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "FrameSaid":
        """Read it.

        Raises:
            Rejected: a field is missing or is no such thing.
        """
        size_bytes = fields.get("size_bytes")
        if not isinstance(size_bytes, int) or isinstance(size_bytes, bool):
            raise RejectedError(RejectCode.MISSING_FIELD, "a frame's header lacks the number size_bytes")
        captured_at = _text(fields, "captured_at")
        sha256 = _text(fields, "sha256")
        if sha256 is not None and not is_digest(sha256):
            raise RejectedError(RejectCode.MALFORMED_DIGEST, "sha256 is not 64 lower-case hexadecimal digits")
        return cls(
            source_id=_text(fields, "source_id"),
            site=_text(fields, "site"),
            sha256=sha256,
            size_bytes=size_bytes,
            captured_at_us=None if captured_at is None else required_time_us(captured_at, "captured_at"),
        )

    def check(self, size_bytes: int) -> None:
        """Check how long its bytes are.

        Raises:
            Rejected: longer than a frame of a feed may be, none, or not as declared.
        """
        if max(size_bytes, self.size_bytes) > INLINE_BYTES_MAX:
            raise RejectedError(RejectCode.TOO_LARGE, f"a frame of a feed has at most {INLINE_BYTES_MAX} bytes")
        if size_bytes != self.size_bytes:
            raise RejectedError(RejectCode.SIZE_MISMATCH, f"{size_bytes} bytes came, declared were {self.size_bytes}")
        if size_bytes == 0:
            raise RejectedError(RejectCode.NOT_AN_IMAGE, "the frame is empty")


def header_of(raw: bytes) -> Header:
    """Read a text message.

    Raises:
        Wrong: it is no JSON object within bounds, or says no type and number that could be answered.
    """
    try:
        fields = parse_object(raw, "the message")
    except RejectedError as rejected:
        raise FeedMessageError(CloseReason(NOT_TEXT, rejected.reason)) from None
    seq = fields.get("seq")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= SEQ_MAX:
        raise FeedMessageError(CloseReason(REFUSED, "a message needs a whole number seq"))
    if fields.get("type") not in ("frame", "ldo"):
        raise FeedMessageError(CloseReason(REFUSED, "a message has the type frame or ldo"))
    return Header(fields["type"], seq, fields)


def ldo_metadata(raw: bytes) -> LdoMetadata:
    """Read an LDO's message as its metadata; its type and number are the feed's, and nothing of it.

    Raises:
        Rejected: it is none.
    """
    own = (orjson.dumps(name) + b":" + said for name, said in members(raw) if name not in _OF_THE_FEED)
    return parse_metadata((b"{" + b",".join(own) + b"}").decode(), time.time_ns() // 1000)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"{name} is no text")
    return value
