"""What an event must fulfil to be ingested. Each check raises `Rejected` with a code and a sentence naming the field.

Cheap checks come before the digest, the digest before the header of image or video: what is not the bytes that were
declared is reported as that, whatever else it may be.
"""

from typing import assert_never

from headrace.schemas.digest import is_digest, sha256_hex
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Ldo
from headrace.schemas.json_guard import check_keepable, parse_object
from headrace.schemas.limits import (
    ATTRIBUTES_BYTES_MAX,
    CAPTURED_AHEAD_US_MAX,
    CAPTURED_AT_US_MIN,
    CLIP_BYTES_MAX,
    CLIP_DURATION_US_MAX,
    FRAME_BYTES_MAX,
    FRAME_PIXELS_MAX,
    FRAME_SIDE_PIXELS_MAX,
    INLINE_BYTES_MAX,
    LDO_BODY_BYTES_MAX,
)
from headrace.schemas.media_probe import image_header, video_header
from headrace.schemas.names import check_code, check_name
from headrace.schemas.reject import RejectCode, RejectedError

FRAME_MEDIA_TYPES = frozenset({"image/jpeg", "image/png", "image/webp"})
CLIP_MEDIA_TYPE = "video/mp4"


def check(event: InputEvent, now_us: int) -> None:
    """Check everything that can be known without the body of a staged event.

    Raises:
        Rejected: the first thing that is wrong.
    """
    check_name(event.source_id, "source_id")
    check_name(event.site, "site")
    _check_time(event.captured_at_us, now_us)
    if event.sequence < 0:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"sequence is {event.sequence}, which is negative")
    match event:
        case Cid():
            _check_cid(event)
        case Frame():
            _check_frame(event)
        case Clip():
            _check_clip(event)
        case Ldo():
            _check_ldo(event)
        case _:
            assert_never(event)


def check_media(event: Frame | Clip, head: bytes) -> None:
    """Check that the first bytes of a body, or all of them, are what the event says.

    Raises:
        Rejected: no image or video, or another one than declared.
    """
    match event:
        case Frame():
            _check_image(event, head)
        case Clip():
            if video_header(head, event.size_bytes) is None:
                raise RejectedError(RejectCode.NOT_A_VIDEO, "the body is not an MP4 with a movie header")
        case _:
            assert_never(event)


def _check_time(captured_at_us: int, now_us: int) -> None:
    if captured_at_us < CAPTURED_AT_US_MIN:
        raise RejectedError(
            RejectCode.ABSURD_TIME, f"captured_at is {captured_at_us} µs, which is before the year 2000"
        )
    if captured_at_us > now_us + CAPTURED_AHEAD_US_MAX:
        raise RejectedError(RejectCode.ABSURD_TIME, f"captured_at is {captured_at_us} µs, more than a day ahead")


def _check_cid(event: Cid) -> None:
    check_code(event.code, "code")
    check_name(event.symbology, "symbology")
    if event.seen_in is not None:
        _check_digest(event.seen_in, "seen_in")


def _check_ldo(event: Ldo) -> None:
    check_name(event.ldo_id, "ldo_id")
    if not event.body:
        raise RejectedError(RejectCode.MISSING_FIELD, "body is empty")
    if len(event.body) > LDO_BODY_BYTES_MAX:
        raise RejectedError(RejectCode.TOO_LARGE, f"body is {len(event.body)} bytes, over {LDO_BODY_BYTES_MAX}")
    if event.clip_sha256 is not None:
        _check_digest(event.clip_sha256, "clip_sha256")


def _check_frame(event: Frame) -> None:
    if event.media_type not in FRAME_MEDIA_TYPES:
        raise RejectedError(
            RejectCode.FIELD_OUT_OF_RANGE, f"media_type is {event.media_type[:80]!r}, not JPEG, PNG or WebP"
        )
    if not (0 < event.width <= FRAME_SIDE_PIXELS_MAX and 0 < event.height <= FRAME_SIDE_PIXELS_MAX):
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"{event.width} by {event.height} pixels is no usable size")
    if event.width * event.height > FRAME_PIXELS_MAX:
        raise RejectedError(RejectCode.TOO_LARGE, f"{event.width} by {event.height} is over {FRAME_PIXELS_MAX} pixels")
    _check_body(event, FRAME_BYTES_MAX)


def _check_clip(event: Clip) -> None:
    if event.media_type != CLIP_MEDIA_TYPE:
        raise RejectedError(
            RejectCode.FIELD_OUT_OF_RANGE, f"media_type is {event.media_type[:80]!r}, not {CLIP_MEDIA_TYPE}"
        )
    # 0 is a clip whose file does not say how long it is.
    if not 0 <= event.duration_us <= CLIP_DURATION_US_MAX:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"duration is {event.duration_us} µs, not up to an hour")
    if event.about is not None:
        check_code(event.about, "about")
    _check_body(event, CLIP_BYTES_MAX)


def _check_body(event: Frame | Clip, bytes_max: int) -> None:
    _check_digest(event.sha256, "sha256")
    _check_attributes(event.attributes)
    if event.size_bytes > bytes_max:
        raise RejectedError(RejectCode.TOO_LARGE, f"the body is {event.size_bytes} bytes, over {bytes_max}")
    if event.body is None:
        if not event.claim:
            raise RejectedError(RejectCode.MISSING_FIELD, "there is neither a body nor a claim on a staged one")
        if event.size_bytes < 1:
            raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"a staged body of {event.size_bytes} bytes is none")
        return
    if not event.body:
        raise RejectedError(RejectCode.MISSING_FIELD, "the body is empty")
    if len(event.body) > INLINE_BYTES_MAX:
        raise RejectedError(
            RejectCode.TOO_LARGE, f"an inline body is {len(event.body)} bytes, over {INLINE_BYTES_MAX}: stage it"
        )
    if len(event.body) != event.size_bytes:
        raise RejectedError(
            RejectCode.SIZE_MISMATCH, f"the body is {len(event.body)} bytes, declared {event.size_bytes}"
        )
    found = sha256_hex(event.body)
    if found != event.sha256:
        raise RejectedError(RejectCode.DIGEST_MISMATCH, f"the body's SHA-256 is {found}, declared {event.sha256}")
    check_media(event, event.body)


def _check_image(event: Frame, head: bytes) -> None:
    found = image_header(head)
    if found is None:
        raise RejectedError(RejectCode.NOT_AN_IMAGE, "the body has no header of a JPEG, PNG or WebP")
    if (found.media_type, found.width, found.height) != (event.media_type, event.width, event.height):
        raise RejectedError(
            RejectCode.IMAGE_MISMATCH,
            f"the body is {found.media_type}, {found.width} by {found.height}; "
            f"declared {event.media_type}, {event.width} by {event.height}",
        )


def _check_digest(text: str, field: str) -> None:
    if not is_digest(text):
        raise RejectedError(RejectCode.MALFORMED_DIGEST, f"{field} is not 64 lower-case hexadecimal digits")


def _check_attributes(attributes: bytes) -> None:
    if attributes == b"{}":
        return
    if len(attributes) > ATTRIBUTES_BYTES_MAX:
        raise RejectedError(
            RejectCode.TOO_LARGE, f"attributes are {len(attributes)} bytes, over {ATTRIBUTES_BYTES_MAX}"
        )
    parse_object(attributes, "attributes")
    check_keepable(attributes, "attributes")
