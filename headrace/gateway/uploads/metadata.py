"""An LDO's metadata, as its service's clients write it: JSON text with ldo_id, sensor_data, context and prediction.

What it says is kept as it was written; only the names that the message itself carries are taken out of it. No I/O.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from headrace.gateway.credential_filter import refuse_credentials
from headrace.schemas.digest import LDO_PARTS
from headrace.schemas.json_guard import check_keepable, members, parse_object
from headrace.schemas.limits import CAPTURED_AHEAD_US_MAX, CAPTURED_AT_US_MIN
from headrace.schemas.reject import RejectCode, RejectedError

# They stand in the message, so a second, different one in its body would have to be refused.
_OF_THE_MESSAGE = frozenset({"ldo_id", "site", "source_id", "captured_at", "captured_at_us", "clip_sha256", "kind"})
_SOURCES = ("source_id", "device_id", "camera_id")
_TIMES = ("captured_at", "timestamp")


@dataclass(frozen=True, slots=True)
class LdoMetadata:
    """What the metadata say; None where they do not."""

    ldo_id: str
    body: bytes
    site: str | None
    source_id: str | None
    captured_at_us: int | None


def parse_metadata(text: str, now_us: int) -> LdoMetadata:
    """Read metadata.

    Who sent it and when may stand at the top or in `context`. A time at the top has to be one; in `context`, which is
    the client's own, what is no usable time is left alone.

    Raises:
        Rejected: they are no JSON object within bounds, say a name twice, or lack a part.
        Problem: they hold a login (422).
    """
    raw = text.encode(errors="surrogatepass")
    value = parse_object(raw, "metadata", required=LDO_PARTS)
    check_keepable(raw, "metadata")
    # What is kept is the text as it came, and a name may stand in it twice.
    refuse_credentials(json.loads(raw, object_pairs_hook=_each, parse_int=float), "metadata")
    written = [*members(raw)]
    names = [name for name, _ in written]
    if len(names) != len(set(names)):
        raise RejectedError(RejectCode.NOT_JSON, "metadata say a name twice")
    ldo_id = value.get("ldo_id")
    if not isinstance(ldo_id, str):
        raise RejectedError(RejectCode.MISSING_FIELD, "metadata lack the text ldo_id")
    own = (orjson.dumps(name) + b":" + said for name, said in written if name not in _OF_THE_MESSAGE)
    context = value["context"]
    return LdoMetadata(
        ldo_id=ldo_id,
        body=b"{" + b",".join(own) + b"}",
        site=_text(value, ("site",)) or _text(context, ("site",)),
        source_id=_text(value, _SOURCES) or _text(context, _SOURCES),
        captured_at_us=_captured_at_us(value, context, now_us),
    )


def _each(members_: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [{name: said} for name, said in members_]


def time_us(value: object) -> int | None:
    """Return microseconds since 1970 from RFC 3339 text (UTC where it names no zone) or Unix seconds; else None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e11:
        return round(value * 1_000_000)
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        zoned = found if found.tzinfo else found.replace(tzinfo=UTC)
        return round((zoned - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
    except (ValueError, OverflowError):
        return None


def required_time_us(text: str, name: str) -> int:
    """Return the time that a field names.

    Raises:
        Rejected: it names none.
    """
    found = time_us(text)
    if found is None:
        raise RejectedError(RejectCode.ABSURD_TIME, f"{name} is no time; write it as 2026-01-31T12:00:00Z")
    return found


def _captured_at_us(value: Mapping[str, Any], context: Mapping[str, Any], now_us: int) -> int | None:
    if "captured_at" not in value:
        return _time_in_context(context, now_us)
    found = time_us(value["captured_at"])
    if found is None:
        raise RejectedError(RejectCode.ABSURD_TIME, "captured_at is no time; write it as 2026-01-31T12:00:00Z")
    return found


def _time_in_context(context: Mapping[str, Any], now_us: int) -> int | None:
    for name in _TIMES:
        found = time_us(context.get(name))
        if found is not None and CAPTURED_AT_US_MIN <= found <= now_us + CAPTURED_AHEAD_US_MAX:
            return found
    return None


def _text(value: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((value[name] for name in names if isinstance(value.get(name), str) and value[name]), None)
