"""The metadata of an LDO: a JSON object with ldo_id, sensor_data, context and prediction.

The text is stored unchanged, without the members that the message has as fields.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from headrace.gateway.credential_filter import refuse_credentials
from headrace.schemas.digest import LDO_PARTS
from headrace.schemas.json_guard import check_keepable, check_values, members, parse_object
from headrace.schemas.limits import CAPTURED_AHEAD_US_MAX, CLOCK_SET_US_MIN
from headrace.schemas.reject import RejectCode, RejectedError

# Fields of the message; another value in its body would be ambiguous.
_MESSAGE_FIELDS = frozenset({"ldo_id", "site", "source_id", "captured_at", "captured_at_us", "clip_sha256", "kind"})
VALUES_MAX = 100_000  # an LDO of 1 MiB with numbers of ten digits has fewer
_SOURCES = ("source_id", "device_id", "camera_id")
_TIMES = ("captured_at", "timestamp")


@dataclass(frozen=True, slots=True)
class LdoMetadata:
    """The parsed metadata; missing values are None."""

    ldo_id: str
    body: bytes
    site: str | None
    source_id: str | None
    captured_at_us: int | None


def parse_metadata_now(text: str) -> LdoMetadata:
    """Parse metadata that arrived now; raises as `parse_metadata`."""
    return parse_metadata(text, time.time_ns() // 1000)


def parse_metadata(text: str, now_us: int) -> LdoMetadata:
    """Parse metadata.

    The source and the time may be at the top level or in `context`. An invalid time is rejected at the top level, and
    ignored in `context`, whose content belongs to the client.

    Raises:
        RejectedError: the JSON is invalid or too large, or has duplicate or missing members.
        Problem: it holds credentials (422).
    """
    raw = text.encode(errors="surrogatepass")
    check_values(raw, "metadata", VALUES_MAX)
    value = parse_object(raw, "metadata", required=LDO_PARTS)
    check_keepable(raw, "metadata")
    # The stored text may have duplicate names, which a parsed object hides.
    refuse_credentials(json.loads(raw, object_pairs_hook=_all_members, parse_int=float), "metadata")
    raw_members = [*members(raw)]
    names = [name for name, _ in raw_members]
    if len(names) != len(set(names)):
        raise RejectedError(RejectCode.NOT_JSON, "metadata have a duplicate name")
    ldo_id = value.get("ldo_id")
    if not isinstance(ldo_id, str):
        raise RejectedError(RejectCode.MISSING_FIELD, "metadata must have the string ldo_id")
    body = (orjson.dumps(name) + b":" + text for name, text in raw_members if name not in _MESSAGE_FIELDS)
    context = value["context"]
    return LdoMetadata(
        ldo_id=ldo_id,
        body=b"{" + b",".join(body) + b"}",
        site=_text(value, ("site",)) or _text(context, ("site",)),
        source_id=_text(value, _SOURCES) or _text(context, _SOURCES),
        captured_at_us=_captured_at_us(value, context, now_us),
    )


def _all_members(pairs: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value} for name, value in pairs]


def time_us(value: object) -> int | None:
    """Return Unix microseconds from RFC 3339 text (by default UTC) or Unix seconds, or None where it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e11:
        return round(value * 1_000_000)
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value)
        zoned = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        return round((zoned - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
    except (ValueError, OverflowError):
        return None


def required_time_us(text: str, name: str) -> int:
    """Parse the time in a field.

    Raises:
        RejectedError: the text is not a time.
    """
    parsed_us = time_us(text)
    if parsed_us is None:
        raise RejectedError(RejectCode.ABSURD_TIME, f"{name} must be a time such as 2026-01-31T12:00:00Z")
    return parsed_us


def _captured_at_us(value: Mapping[str, Any], context: Mapping[str, Any], now_us: int) -> int | None:
    if "captured_at" not in value:
        return _time_in_context(context, now_us)
    captured_at_us = time_us(value["captured_at"])
    if captured_at_us is None:
        raise RejectedError(RejectCode.ABSURD_TIME, "captured_at must be a time such as 2026-01-31T12:00:00Z")
    return captured_at_us


def _time_in_context(context: Mapping[str, Any], now_us: int) -> int | None:
    for name in _TIMES:
        parsed_us = time_us(context.get(name))
        if parsed_us is not None and CLOCK_SET_US_MIN <= parsed_us <= now_us + CAPTURED_AHEAD_US_MAX:
            return parsed_us
    return None


def _text(value: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((value[name] for name in names if isinstance(value.get(name), str) and value[name]), None)
