"""The metadata of an LDO: a JSON object with ldo_id, sensor_data, context and prediction.

The text is stored unchanged, without the members that the message has as fields.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

from headrace.gateway.credential_filter import refuse_credentials
from headrace.schemas.digest import LDO_PARTS
from headrace.schemas.json_guard import check_keepable, check_values, members, parse_object
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import check_captured_at

# Fields of the message; another value in its body would be ambiguous.
_MESSAGE_FIELDS = frozenset({"ldo_id", "site", "source_id", "captured_at", "captured_at_us", "clip_sha256", "kind"})
VALUES_MAX = 100_000  # an LDO of 1 MiB with numbers of ten digits has fewer
_SOURCES = ("source_id", "device_id", "camera_id")
_TIMES = ("captured_at", "timestamp")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?([eE][+]?\d{1,2})?")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d+))?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
# Seconds up to the year 5138, and milliseconds and microseconds up to the same.
_UNITS = ((1_000_000, 0, 10**11), (1000, 10**11, 10**14), (1, 10**14, 10**17))


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

    The source and the time may be at the top level or in `context`. What is given as a time and is none is rejected.

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
    """Return Unix microseconds from RFC 3339 text, by default UTC, or from a number; None where it is neither.

    A number, also as text, counts since 1970: seconds below 10^11, milliseconds below 10^14, else microseconds.
    """
    if isinstance(value, str):
        text = value.strip()
        return _number_us(Decimal(text)) if _NUMBER.fullmatch(text) else _text_us(text)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number_us(Decimal(str(value)))
    return None


def _number_us(value: Decimal) -> int | None:
    if not value.is_finite():
        return None
    for unit_us, from_value, to_value in _UNITS:
        if from_value <= abs(value) < to_value:
            return round(value * unit_us)
    return None


def _text_us(text: str) -> int | None:
    match = _RFC3339.fullmatch(text)
    fraction_us = 0
    if match is not None:
        day, clock, fraction, zone = match.groups()
        # More than six digits are cut off; a leap second is the beginning of the next one.
        fraction_us = 1_000_000 if clock.endswith(":60") else int(f"{(fraction or '')[:6]:0<6}")
        clock = f"{clock[:-2]}59" if clock.endswith(":60") else clock
        text = f"{day}T{clock}{'+00:00' if zone in {None, 'z', 'Z'} else zone}"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (zoned - _EPOCH) // timedelta(microseconds=1) + fraction_us


def required_time_us(value: object, name: str) -> int:
    """Parse the time in a field.

    Raises:
        RejectedError: it is not a time.
    """
    parsed_us = time_us(value)
    if parsed_us is None:
        raise RejectedError(
            RejectCode.ABSURD_TIME, f"{name} must be a time such as 2026-01-31T12:00:00Z, or a number since 1970"
        )
    return parsed_us


def _captured_at_us(value: Mapping[str, Any], context: Mapping[str, Any], now_us: int) -> int | None:
    """Return the time that is given first; raises RejectedError if it is not one, so that it is never silently now."""
    for place, members_of in (("", value), ("context.", context)):
        for name in ("captured_at",) if not place else _TIMES:
            given = members_of.get(name)
            if given is None or given == "":
                continue
            captured_at_us = required_time_us(given, f"{place}{name}")
            check_captured_at(captured_at_us, now_us)
            return captured_at_us
    return None


def _text(value: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((value[name] for name in names if isinstance(value.get(name), str) and value[name]), None)
