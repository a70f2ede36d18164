"""From bytes or a file to the event that describes them."""

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

_HEAD_BYTES = 4 * MIB  # of a file that is too large to be read whole; a movie header in front of the data fits


def describe_frame(body: bytes, origin: Origin, *, attributes: bytes = b"{}") -> Frame:
    """Return the frame event for image bytes, published as they are.

    Raises:
        Rejected: they are no JPEG, PNG or WebP.
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

    A file above INLINE_BYTES_MAX is hashed but not held: the event has no body, and `Publisher.publish` is given the
    path. A duration that the file does not say is 0.

    Raises:
        Rejected: it is no MP4 with a movie header.
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
        raise RejectedError(RejectCode.NOT_A_VIDEO, "it is no MP4 file with a movie header")
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
    """What one line says; `body` is the LDO's own part of it, its values as they are written."""

    ldo_id: str
    body: bytes
    captured_at_us: int | None = None
    clip: Path | None = None


def parse_ldo_line(line: bytes, folder: Path) -> LdoLine:
    """Parse one line; a clip's path is relative to `folder`.

    Raises:
        Rejected: it is not such an object; the reason names what is missing, wrong or not known.
    """
    said = parse_object(line, "the line", required=LDO_PARTS)
    if unknown := said.keys() - {"ldo_id", *LDO_PARTS, *_OPTIONAL}:
        raise RejectedError(
            RejectCode.FIELD_OUT_OF_RANGE, f"the line says {', '.join(sorted(unknown))}, which no LDO holds"
        )
    written = list(members(line))
    if len(written) > len(said):
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, "the line says one thing twice")
    ldo_id, captured_at_us, clip = said.get("ldo_id"), said.get("captured_at_us"), said.get("clip")
    if not isinstance(ldo_id, str):
        raise RejectedError(RejectCode.MISSING_FIELD, "the line lacks the text ldo_id")
    if captured_at_us is not None and type(captured_at_us) is not int:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, "captured_at_us is not a whole number")
    if clip is not None and not isinstance(clip, str):
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, "clip is not a path")
    return LdoLine(
        ldo_id=ldo_id,
        body=b"{" + b",".join(b'"%b":%b' % (name.encode(), text) for name, text in written if name in LDO_PARTS) + b"}",
        captured_at_us=captured_at_us,
        clip=None if clip is None else folder / clip,
    )
