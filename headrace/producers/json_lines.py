"""LDOs as JSON lines: one object a line, {"ldo_id", "sensor_data", "context", "prediction"}.

`captured_at_us` and `clip`, the path of an MP4 file beside the lines, may be there too.
"""

from dataclasses import dataclass
from pathlib import Path

from headrace.schemas.digest import LDO_PARTS
from headrace.schemas.json_guard import members, parse_object
from headrace.schemas.reject import RejectCode, RejectedError

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
