"""Events from their sources: image and video bytes or files, and LDOs as JSON lines."""

from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from headrace.producers.source import fields_of
from headrace.schemas.digest import LDO_PARTS, sha256_hex
from headrace.schemas.events import Clip, Frame, Origin
from headrace.schemas.json_guard import members, parse_object
from headrace.schemas.limits import INLINE_BYTES_MAX, MIB
from headrace.schemas.media_probe import image_header, video_header
from headrace.schemas.reject import RejectCode, RejectedError

_HEAD_BYTES = 4 * MIB  # read of a large file; enough for a movie header before the media data


def describe_frame(body: bytes, origin: Origin, *, attributes: bytes = b"{}") -> Frame:
    """Return the frame event for image bytes, which are published unchanged.

    Raises:
        RejectedError: the bytes are not a JPEG, PNG or WebP.
    """
    header = image_header(body)
    if header is None:
        raise RejectedError(RejectCode.NOT_AN_IMAGE, "the bytes have no JPEG, PNG or WebP header")
    return Frame(
        **fields_of(origin),
        sha256=sha256_hex(body),
        media_type=header.media_type,
        width=header.width,
        height=header.height,
        size_bytes=len(body),
        body=body,
        attributes=attributes,
    )


def describe_clip(body: bytes | Path, origin: Origin, *, about: str | None = None) -> Clip:
    """Return the clip event for MP4 bytes or a file of them; `about` is the LDO id or code that it belongs to.

    A file above INLINE_BYTES_MAX is hashed but not kept in memory: the event has no body, and `Publisher.publish`
    needs the path. The duration is 0 if the file does not declare it.

    Raises:
        RejectedError: the bytes are not an MP4 with a movie header.
        OSError: the file cannot be read.
    """
    if isinstance(body, Path):
        size_bytes = body.stat().st_size
        with body.open("rb") as file:
            head = file.read(INLINE_BYTES_MAX if size_bytes <= INLINE_BYTES_MAX else _HEAD_BYTES)
            file.seek(0)
            digest = file_digest(file, "sha256").hexdigest()
        inline = head if len(head) == size_bytes else None
    else:
        head, size_bytes, digest, inline = body, len(body), sha256_hex(body), body
    header = video_header(head, size_bytes)
    if header is None:
        raise RejectedError(RejectCode.NOT_A_VIDEO, "not an MP4 file with a movie header")
    return Clip(
        **fields_of(origin),
        sha256=digest,
        duration_us=header.duration_us or 0,
        size_bytes=size_bytes,
        body=inline,
        about=about,
    )


_OPTIONAL = {"captured_at_us", "clip"}


@dataclass(frozen=True, slots=True)
class LdoLine:
    """One parsed line; `body` has the LDO's own members with their values as written."""

    ldo_id: str
    body: bytes
    captured_at_us: int | None = None
    clip: Path | None = None


def parse_ldo_line(line: bytes, folder: Path) -> LdoLine:
    """Parse one JSON line: {"ldo_id", "sensor_data", "context", "prediction"}.

    Optional members are `captured_at_us` and `clip`, the path of an MP4 file relative to `folder`.

    Raises:
        RejectedError: a member is missing, invalid, unknown or repeated; the reason names it.
    """
    values = parse_object(line, "the line", required=LDO_PARTS)
    if unknown := values.keys() - {"ldo_id", *LDO_PARTS, *_OPTIONAL}:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"unknown members: {', '.join(sorted(unknown))}")
    written = list(members(line))
    if len(written) > len(values):
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, "a member is repeated")
    ldo_id, captured_at_us, clip = values.get("ldo_id"), values.get("captured_at_us"), values.get("clip")
    if not isinstance(ldo_id, str):
        raise RejectedError(RejectCode.MISSING_FIELD, "the string ldo_id is missing")
    if captured_at_us is not None and type(captured_at_us) is not int:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, "captured_at_us is not an integer")
    if clip is not None and not isinstance(clip, str):
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, "clip is not a path")
    return LdoLine(
        ldo_id=ldo_id,
        body=b"{" + b",".join(b'"%b":%b' % (name.encode(), text) for name, text in written if name in LDO_PARTS) + b"}",
        captured_at_us=captured_at_us,
        clip=None if clip is None else folder / clip,
    )
