"""The rules an input event must satisfy to be ingested.

`validate` is the decision of the worker: an event that it rejects becomes a dead letter. Producers and the gateway call
it before they publish, and a redrive calls it before it publishes again, so all of them reject the same events.

Cheap checks precede the digest, and the digest precedes the header of an image or video: a body that differs from its
declared digest is always reported as `digest_mismatch`.
"""

import re
from dataclasses import dataclass
from typing import TypeGuard, assert_never

from headrace.schemas.digest import canonical_body, is_digest, sha256_hex, staging_prefix
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Kind, Ldo
from headrace.schemas.json_guard import check_keepable, parse_object
from headrace.schemas.limits import (
    ATTRIBUTES_BYTES_MAX,
    CAPTURED_AHEAD_US_MAX,
    CAPTURED_AT_US_MAX,
    CLIP_BYTES_MAX,
    CLIP_DURATION_US_MAX,
    CLOCK_SET_US_MIN,
    CODE_BYTES_MAX,
    FRAME_BYTES_MAX,
    FRAME_PIXELS_MAX,
    FRAME_SIDE_PIXELS_MAX,
    INLINE_BYTES_MAX,
    LDO_BODY_BYTES_MAX,
    NAME_BYTES_MAX,
)
from headrace.schemas.media.formats import CLIP_MEDIA_TYPES, FRAME_MEDIA_TYPES
from headrace.schemas.media_probe import ImageHeader, MediaProbe, VideoHeader, probe_of
from headrace.schemas.reject import RejectCode, RejectedError

JSON_MEDIA_TYPE = "application/json"

INPUT_EVENTS: dict[Kind, type[InputEvent]] = {Kind.CID: Cid, Kind.FRAME: Frame, Kind.CLIP: Clip, Kind.LDO: Ldo}

# A name is shown in logs, tables and consoles, so it must not start a line, move a cursor or change the direction of
# the text after it: C0 and C1 controls, line and paragraph separators, bidirectional overrides and isolates.
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_STAGED_NAME = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,199}")


@dataclass(frozen=True, slots=True)
class ValidEvent:
    """An event that may be ingested. `body` holds the bytes to store; None while they are still staged."""

    event: InputEvent
    digest: str
    media_type: str
    size_bytes: int
    body: bytes | None


def validate(event: InputEvent, as_of_us: int) -> ValidEvent:
    """Validate an event and hash its body; a staged body is validated by its declared size only.

    `as_of_us` is the time at which Kafka took the event's message, or now before that, so that a redelivery is judged
    the same.

    Raises:
        RejectedError: the event can never be ingested; the first violated rule.
    """
    check_name(event.source_id, "source_id")
    check_name(event.site, "site")
    _check_recordable(event.captured_at_us, as_of_us)
    if event.sequence < 0:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"sequence is {event.sequence}, which is negative")
    match event:
        case Cid():
            _check_cid(event)
        case Ldo():
            _check_ldo(event)
        case Frame():
            _check_frame(event)
        case Clip():
            _check_clip(event)
        case _:
            assert_never(event)
    if isinstance(event, Cid | Ldo):
        body = canonical_body(event)
        return ValidEvent(event, sha256_hex(body), JSON_MEDIA_TYPE, len(body), body)
    return ValidEvent(event, event.sha256, event.media_type, event.size_bytes, event.body)


def check_name(value: str, field: str) -> None:
    """Check the name of a source, a site or an LDO; `field` names the field in the reason.

    Raises:
        RejectedError: it is empty, longer than NAME_BYTES_MAX in UTF-8, begins or ends with white space, or contains a
            control character, a bidirectional override or a lone surrogate. The reason never repeats the value.
    """
    _check_text_size(value, field, NAME_BYTES_MAX)
    if match := UNSHOWABLE.search(value):
        raise RejectedError(
            RejectCode.FIELD_OUT_OF_RANGE,
            f"{field} contains the character U+{ord(match[0]):04X}, which is not allowed in a name",
        )
    if value != value.strip():
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"{field} begins or ends with white space")


def check_code(value: str, field: str) -> None:
    """Check a scanned code, or what a clip is about; `field` names the field in the reason.

    Control characters are allowed, because GS1 separates fields with one.

    Raises:
        RejectedError: it is empty, longer than CODE_BYTES_MAX in UTF-8, or contains a lone surrogate or U+0000, which
            PostgreSQL cannot store. The reason never repeats the value.
    """
    _check_text_size(value, field, CODE_BYTES_MAX)
    if "\x00" in value:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"{field} contains the character U+0000")


def check_digest_format(value: str, field: str) -> None:
    """Check that a text has the form of a SHA-256.

    Raises:
        RejectedError: MALFORMED_DIGEST.
    """
    if not is_digest(value):
        raise RejectedError(RejectCode.MALFORMED_DIGEST, f"{field} is not 64 lower-case hexadecimal digits")


def check_captured_at(captured_at_us: int, now_us: int) -> None:
    """Check a capture time that its caller can still correct.

    Raises:
        RejectedError: ABSURD_TIME; it is before the year 2000 or more than a day ahead of `now_us`.
    """
    if captured_at_us < CLOCK_SET_US_MIN:
        raise RejectedError(RejectCode.ABSURD_TIME, f"captured_at is {captured_at_us} µs, before the year 2000")
    _check_recordable(captured_at_us, now_us)


def is_plausible_time(captured_at_us: int | None, now_us: int) -> TypeGuard[int]:
    """Return whether a capture time passes `check_captured_at`; None does not."""
    try:
        check_captured_at(-1 if captured_at_us is None else captured_at_us, now_us)
    except RejectedError:
        return False
    return True


def _check_recordable(captured_at_us: int, as_of_us: int) -> None:
    # A device whose clock was never set shows a time from 1970 on, and its events are observations all the same.
    if captured_at_us < 0:
        raise RejectedError(RejectCode.ABSURD_TIME, f"captured_at is {captured_at_us} µs, before 1970")
    # A judge without a clock of its own cannot know what lies ahead: an edge device, or a message without a time.
    last_us = as_of_us + CAPTURED_AHEAD_US_MAX if as_of_us >= CLOCK_SET_US_MIN else CAPTURED_AT_US_MAX
    if captured_at_us > min(last_us, CAPTURED_AT_US_MAX):
        raise RejectedError(RejectCode.ABSURD_TIME, f"captured_at is {captured_at_us} µs, more than a day ahead")


def check_image_header(header: ImageHeader, *, side_code: RejectCode = RejectCode.TOO_LARGE) -> None:
    """Check the pixel size of an image; `side_code` is the code for a side outside its range.

    Raises:
        RejectedError: `side_code`, or TOO_LARGE for more than FRAME_PIXELS_MAX pixels.
    """
    width, height = header.width, header.height
    if not (0 < width <= FRAME_SIDE_PIXELS_MAX and 0 < height <= FRAME_SIDE_PIXELS_MAX):
        raise RejectedError(
            side_code, f"{width} by {height} pixels: each side must have 1 to {FRAME_SIDE_PIXELS_MAX} pixels"
        )
    _check_pixels(width, height)


def check_video_header(header: VideoHeader, *, duration_code: RejectCode = RejectCode.TOO_LARGE) -> None:
    """Check the duration and pixel size of a video, as far as it declares them.

    Raises:
        RejectedError: `duration_code` for a duration outside its range, or TOO_LARGE for its pixels.
    """
    duration_us = header.duration_us or 0  # 0 also stands for a file that does not declare its duration
    if not 0 <= duration_us <= CLIP_DURATION_US_MAX:
        raise RejectedError(duration_code, f"the duration is {duration_us} µs, allowed are 0 to {CLIP_DURATION_US_MAX}")
    width, height = header.width or 0, header.height or 0
    if max(width, height) > FRAME_SIDE_PIXELS_MAX:
        raise RejectedError(
            RejectCode.TOO_LARGE, f"{width} by {height} pixels: a side has at most {FRAME_SIDE_PIXELS_MAX} pixels"
        )
    _check_pixels(width, height)


def check_header(header: ImageHeader | VideoHeader, size_bytes: int) -> None:
    """Check that an image or a video of `size_bytes` is within the limits of a frame or a clip.

    Raises:
        RejectedError: a limit is exceeded.
    """
    if isinstance(header, VideoHeader):
        check_video_header(header)
        return
    check_image_header(header)
    if size_bytes > FRAME_BYTES_MAX:
        raise RejectedError(RejectCode.TOO_LARGE, f"the image has {size_bytes} bytes, at most {FRAME_BYTES_MAX}")


def check_media(event: Frame | Clip, probe: MediaProbe) -> None:
    """Check that a body, all of which the probe read, is the image or video that the event declares.

    Raises:
        RejectedError: NOT_AN_IMAGE, IMAGE_MISMATCH or NOT_A_VIDEO, or a limit is exceeded.
    """
    match event:
        case Frame():
            _check_image(event, probe.image())
        case Clip():
            # Clients of earlier versions declare QuickTime and 3GP as MP4, so the type is not compared.
            check_video_header(probe.video())
        case _:
            assert_never(event)


def check_body(event: Frame | Clip, body: bytes) -> None:
    """Check the size, digest and header of a complete body.

    Raises:
        RejectedError: the body is not the one that the event declares.
    """
    if len(body) != event.size_bytes:
        raise RejectedError(RejectCode.SIZE_MISMATCH, f"the body has {len(body)} bytes, declared {event.size_bytes}")
    digest = sha256_hex(body)
    if digest != event.sha256:
        raise RejectedError(RejectCode.DIGEST_MISMATCH, f"the body's SHA-256 is {digest}, declared {event.sha256}")
    check_media(event, probe_of(body))


def _check_text_size(value: str, field: str, bytes_max: int) -> None:
    if not value:
        raise RejectedError(RejectCode.MISSING_FIELD, f"{field} is empty")
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"{field} contains a lone surrogate") from None
    if size_bytes > bytes_max:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"{field} has {size_bytes} bytes, at most {bytes_max}")


def _check_cid(event: Cid) -> None:
    check_code(event.code, "code")
    check_name(event.symbology, "symbology")
    if event.seen_in is not None:
        check_digest_format(event.seen_in, "seen_in")


def _check_ldo(event: Ldo) -> None:
    check_name(event.ldo_id, "ldo_id")
    if not event.body:
        raise RejectedError(RejectCode.MISSING_FIELD, "body is empty")
    if len(event.body) > LDO_BODY_BYTES_MAX:
        raise RejectedError(RejectCode.TOO_LARGE, f"body has {len(event.body)} bytes, at most {LDO_BODY_BYTES_MAX}")
    if event.clip_sha256 is not None:
        check_digest_format(event.clip_sha256, "clip_sha256")


def _check_frame(event: Frame) -> None:
    if event.media_type not in FRAME_MEDIA_TYPES:
        raise RejectedError(
            RejectCode.FIELD_OUT_OF_RANGE, f"media_type is {event.media_type[:80]!r}, which is no frame's"
        )
    declared = ImageHeader(event.media_type, event.width, event.height)
    check_image_header(declared, side_code=RejectCode.FIELD_OUT_OF_RANGE)
    _check_file(event, FRAME_BYTES_MAX)


def _check_clip(event: Clip) -> None:
    if event.media_type not in CLIP_MEDIA_TYPES:
        raise RejectedError(
            RejectCode.FIELD_OUT_OF_RANGE, f"media_type is {event.media_type[:80]!r}, which is no clip's"
        )
    declared = VideoHeader(duration_us=event.duration_us)
    check_video_header(declared, duration_code=RejectCode.FIELD_OUT_OF_RANGE)
    if event.about is not None:
        check_code(event.about, "about")
    _check_file(event, CLIP_BYTES_MAX)


def _check_file(event: Frame | Clip, bytes_max: int) -> None:
    check_digest_format(event.sha256, "sha256")
    _check_attributes(event.attributes)
    if event.size_bytes > bytes_max:
        raise RejectedError(RejectCode.TOO_LARGE, f"the body has {event.size_bytes} bytes, at most {bytes_max}")
    if event.body is None:
        _check_staged(event)
        return
    if not event.body:
        raise RejectedError(RejectCode.MISSING_FIELD, "the body is empty")
    if len(event.body) > INLINE_BYTES_MAX:
        raise RejectedError(
            RejectCode.TOO_LARGE, f"the inline body has {len(event.body)} bytes, at most {INLINE_BYTES_MAX}: stage it"
        )
    check_body(event, event.body)


def _check_staged(event: Frame | Clip) -> None:
    if not event.claim:
        raise RejectedError(RejectCode.MISSING_FIELD, "the event has neither a body nor a claim on a staged one")
    if event.size_bytes < 1:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"size_bytes of a staged body is {event.size_bytes}")
    # A source may claim only from its own staging area; otherwise a claim could read or move the blobs of others.
    prefix = staging_prefix(event.site, event.source_id)
    if not event.claim.startswith(prefix):
        raise RejectedError(RejectCode.CLAIM_REFUSED, "the claim is outside the staging area of its source")
    # A key that the store itself refuses would look like a broken store, and stop every message after it.
    if not _STAGED_NAME.fullmatch(event.claim[len(prefix) :]):
        raise RejectedError(RejectCode.CLAIM_REFUSED, "the claim is not a valid key of a staged body")


def _check_image(event: Frame, header: ImageHeader) -> None:
    if header != ImageHeader(event.media_type, event.width, event.height):
        raise RejectedError(
            RejectCode.IMAGE_MISMATCH,
            f"the body is {header.media_type}, {header.width} by {header.height}; "
            f"declared {event.media_type}, {event.width} by {event.height}",
        )


def _check_pixels(width: int, height: int) -> None:
    if width * height > FRAME_PIXELS_MAX:
        raise RejectedError(RejectCode.TOO_LARGE, f"{width} by {height} has more than {FRAME_PIXELS_MAX} pixels")


def _check_attributes(attributes: bytes) -> None:
    if attributes == b"{}":
        return
    if len(attributes) > ATTRIBUTES_BYTES_MAX:
        raise RejectedError(
            RejectCode.TOO_LARGE, f"attributes have {len(attributes)} bytes, at most {ATTRIBUTES_BYTES_MAX}"
        )
    parse_object(attributes, "attributes")
    check_keepable(attributes, "attributes")
