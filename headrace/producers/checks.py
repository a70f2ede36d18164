"""What a producer refuses at once, because every agent would make it a dead letter."""

from headrace.schemas.digest import is_digest
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Ldo
from headrace.schemas.json_guard import check_keepable
from headrace.schemas.limits import (
    ATTRIBUTES_BYTES_MAX,
    CAPTURED_AT_US_MIN,
    CLIP_BYTES_MAX,
    FRAME_BYTES_MAX,
    LDO_BODY_BYTES_MAX,
)
from headrace.schemas.names import check_code, check_name
from headrace.schemas.reject import RejectCode, RejectedError


def check_event(event: InputEvent) -> None:
    """Check names, sizes and times; bodies are not read again.

    Raises:
        Rejected: a field can never be ingested; the reason names it.
    """
    check_name(event.source_id, "source_id")
    check_name(event.site, "site")
    if event.captured_at_us < CAPTURED_AT_US_MIN:
        raise RejectedError(RejectCode.ABSURD_TIME, f"captured_at_us is {event.captured_at_us}, before the year 2000")
    match event:
        case Cid():
            check_code(event.code, "code")
            check_name(event.symbology, "symbology")
        case Frame():
            _check_media(event, FRAME_BYTES_MAX)
        case Clip():
            _check_media(event, CLIP_BYTES_MAX)
            if event.about is not None:
                check_code(event.about, "about")
        case Ldo():
            check_name(event.ldo_id, "ldo_id")
            _check_size(len(event.body), LDO_BODY_BYTES_MAX, "body")
            check_keepable(event.body, "body")


def _check_media(event: Frame | Clip, bytes_max: int) -> None:
    if not is_digest(event.sha256):
        raise RejectedError(RejectCode.MALFORMED_DIGEST, "sha256 is not 64 lower-case hexadecimal digits")
    if event.size_bytes < 1:
        raise RejectedError(RejectCode.SIZE_MISMATCH, "size_bytes is below 1")
    if event.body is not None and len(event.body) != event.size_bytes:
        raise RejectedError(
            RejectCode.SIZE_MISMATCH, f"size_bytes is {event.size_bytes}, the body has {len(event.body)} bytes"
        )
    _check_size(event.size_bytes, bytes_max, "body")
    _check_size(len(event.attributes), ATTRIBUTES_BYTES_MAX, "attributes")


def _check_size(size_bytes: int, bytes_max: int, field: str) -> None:
    if size_bytes > bytes_max:
        raise RejectedError(RejectCode.TOO_LARGE, f"{field} has {size_bytes} bytes, at most {bytes_max} are allowed")
