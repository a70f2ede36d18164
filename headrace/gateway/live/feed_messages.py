"""Parses the messages of a feed. No I/O."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.status import WS_1007_INVALID_FRAME_PAYLOAD_DATA, WS_1008_POLICY_VIOLATION

from headrace.gateway.live.session import CloseReason
from headrace.gateway.uploads.metadata import VALUES_MAX, LdoMetadata, parse_metadata, required_time_us
from headrace.schemas.digest import is_digest
from headrace.schemas.json_guard import check_values, members, parse_object
from headrace.schemas.limits import INLINE_BYTES_MAX, KIB, LDO_BODY_BYTES_MAX
from headrace.schemas.reject import RejectCode, RejectedError

HEADER_BYTES_MAX = LDO_BODY_BYTES_MAX + 64 * KIB  # an LDO is the largest
SEQ_MAX = 2**53 - 1  # the largest integer that every JSON parser keeps exactly
_HEADER_FIELDS = frozenset({"type", "seq"})


class FeedMessageError(Exception):
    """Raised for a message after which the feed cannot continue."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason.reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FeedHeader:
    """A text message: its type, its sequence number, and all of its fields."""

    type: str
    seq: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The fields of a frame's header."""

    source_id: str | None
    site: str | None
    captured_at_us: int | None
    sha256: str | None
    size_bytes: int

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> "FrameHeader":
        """Parse the fields of a header.

        Raises:
            RejectedError: a field is missing or invalid.
        """
        size_bytes = fields.get("size_bytes")
        if not isinstance(size_bytes, int) or isinstance(size_bytes, bool):
            raise RejectedError(RejectCode.MISSING_FIELD, "a frame's header requires the number size_bytes")
        captured_at = fields.get("captured_at")
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

    def check_size(self, size_bytes: int) -> None:
        """Check the size of the frame's bytes.

        Raises:
            RejectedError: the frame is empty, exceeds the limit of a feed, or does not have the declared size.
        """
        if max(size_bytes, self.size_bytes) > INLINE_BYTES_MAX:
            raise RejectedError(RejectCode.TOO_LARGE, f"a frame in a feed has at most {INLINE_BYTES_MAX} bytes")
        if size_bytes != self.size_bytes:
            raise RejectedError(
                RejectCode.SIZE_MISMATCH, f"received {size_bytes} bytes, the header declares {self.size_bytes}"
            )
        if size_bytes == 0:
            raise RejectedError(RejectCode.NOT_AN_IMAGE, "the frame is empty")


def parse_header(raw: bytes) -> FeedHeader:
    """Parse a text message.

    Raises:
        FeedMessageError: it is not a JSON object within limits, or has no valid type and sequence number to answer.
    """
    try:
        check_values(raw, "the message", VALUES_MAX)
        fields = parse_object(raw, "the message")
    except RejectedError as rejected:
        raise FeedMessageError(CloseReason(WS_1007_INVALID_FRAME_PAYLOAD_DATA, rejected.reason)) from None
    seq = fields.get("seq")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= SEQ_MAX:
        raise FeedMessageError(CloseReason(WS_1008_POLICY_VIOLATION, f"seq must be an integer from 0 to {SEQ_MAX}"))
    if fields.get("type") not in ("frame", "ldo"):
        raise FeedMessageError(CloseReason(WS_1008_POLICY_VIOLATION, "type must be frame or ldo"))
    return FeedHeader(fields["type"], seq, fields)


def parse_ldo(raw: bytes) -> LdoMetadata:
    """Parse an LDO's message as its metadata, without the type and sequence number, which belong to the feed.

    Raises:
        RejectedError: the metadata is invalid.
    """
    ldo_members = (orjson.dumps(name) + b":" + value for name, value in members(raw) if name not in _HEADER_FIELDS)
    return parse_metadata((b"{" + b",".join(ldo_members) + b"}").decode(), time.time_ns() // 1000)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"{name} is not a string")
    return value
