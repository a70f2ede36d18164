"""Events from their sources: image and video bytes or files, and LDOs as JSON lines."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson

from headrace.producers.source import fields_of
from headrace.schemas.digest import LDO_PARTS, sha256_hex
from headrace.schemas.events import Clip, Frame, Origin
from headrace.schemas.json_guard import members, parse_object
from headrace.schemas.limits import ATTRIBUTES_BYTES_MAX, INLINE_BYTES_MAX, MIB
from headrace.schemas.media_probe import MediaProbe, image_header_of
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import check_video_header

_CHUNK_BYTES = MIB  # read at a time of a large file


def attributes_of(values: Mapping[str, Any]) -> bytes:
    """Return attributes as JSON without empty values, and without EXIF where that is more than attributes may hold."""
    given = {name: value for name, value in values.items() if value}
    for left_out in ((), ("exif",), tuple(given)):
        kept = {name: value for name, value in given.items() if name not in left_out}
        attributes = orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)
        if len(attributes) <= ATTRIBUTES_BYTES_MAX:
            break
    return attributes


def describe_frame(body: bytes, origin: Origin, *, attributes: bytes = b"{}") -> Frame:
    """Return the frame event for image bytes, which are published unchanged.

    Only the header is read; `headrace.runtime.pictures.inspect_picture` finds out whether the image can be decoded.

    Raises:
        RejectedError: the bytes are not an image of a format that is taken, or not all of one.
    """
    header = image_header_of(body)
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


def describe_clip(
    body: bytes | Path, origin: Origin, *, about: str | None = None, attributes: Mapping[str, Any] | None = None
) -> Clip:
    """Return the clip event for the bytes of a video or a file of them; `about` is the LDO id or code it belongs to.

    A file above INLINE_BYTES_MAX is read once but not kept in memory: the event has no body, and `Publisher.publish`
    needs the path. The duration is 0 if the file does not declare it. What its header declares, such as codec and
    rotation, is in the attribute `video`.

    Raises:
        RejectedError: the bytes are not a video of a format that is taken, end too early, or have no video track.
        OSError: the file cannot be read.
    """
    probe, digest = MediaProbe(), sha256()
    size_bytes = 0
    inline: bytes | None = body if isinstance(body, bytes) else None
    with BytesIO(body) if isinstance(body, bytes) else body.open("rb") as file:
        held = bytearray()
        while chunk := file.read(_CHUNK_BYTES):
            probe.feed(chunk)
            digest.update(chunk)
            size_bytes += len(chunk)
            if inline is None and size_bytes <= INLINE_BYTES_MAX:
                held += chunk
    header = probe.video()
    check_video_header(header)
    if inline is None and size_bytes <= INLINE_BYTES_MAX:
        inline = bytes(held)
    return Clip(
        **fields_of(origin),
        sha256=digest.hexdigest(),
        media_type=header.media_type,
        duration_us=header.duration_us or 0,
        size_bytes=size_bytes,
        body=inline,
        about=about,
        attributes=attributes_of({"video": header.details, **(attributes or {})}),
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
