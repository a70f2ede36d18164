"""How ids, times and sizes look in tables of 80 columns; `--json` prints them whole."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

DIGITS_MIN = 8


def short_ids(ids: Iterable[UUID | str], *, total: int = 0) -> dict[str, str]:
    """Return the first digits of each id, as many as tell them apart, and are rarely shared among `total` ids.

    Each further digit divides the chance that an id outside of the list begins alike by 16.
    """
    texts = {str(id_) for id_ in ids}
    digits = max(DIGITS_MIN, len(f"{total:x}") + 4)
    while digits < 32 and len({_digits(text)[:digits] for text in texts}) < len(texts):
        digits += 1
    return {text: _digits(text)[:digits] for text in texts}


def moment(time_us: int | None) -> str:
    """Return microseconds since 1970 as a UTC time to the second; nothing for None."""
    from headrace.schemas.headers import rfc3339

    return "" if time_us is None else rfc3339(time_us)[:19].replace("T", " ")


def fields_of(members: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the members that have a value; microseconds since 1970 as times, and durations in seconds."""
    shown: list[tuple[str, Any]] = []
    for name, value in members.items():
        if value is None:
            continue
        if name == "duration_us":
            shown.append(("duration", f"{value / 1e6:g} s"))
        elif name.endswith("_us"):
            shown.append((name.removesuffix("_us"), _exact(value)))
        else:
            shown.append((name, value))
    return shown


def _exact(time_us: int) -> str:
    from headrace.schemas.headers import rfc3339

    return rfc3339(time_us)


def _digits(id_: str) -> str:
    return id_.replace("-", "")
