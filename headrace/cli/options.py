"""Options that several commands share, and their parsed values."""

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from headrace.schemas.events import Kind

_TIMES = [
    f"{day}{zone}"
    for day in ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S")
    for zone in ("", "%z")
]


def time_option(name: str, help_: str) -> Any:
    """Return an option that accepts ISO 8601 times with or without a zone, to the microsecond."""
    return typer.Option(name, formats=_TIMES, metavar="TIME", help=f"{help_} For example 2026-11-21T03:00:00; UTC.")


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line on standard output.")]
Kinds = Annotated[str | None, typer.Option("--kind", help="cids, frames, clips or ldos; several separated by commas.")]
SiteNames = Annotated[list[str] | None, typer.Option("--site", help="Only records of this site; may be repeated.")]
SourceIds = Annotated[
    list[str] | None, typer.Option("--source", help="Only records of this camera or device; may be repeated.")
]
CapturedFrom = Annotated[datetime | None, time_option("--from", "Only records captured at or after this time.")]
CapturedBefore = Annotated[datetime | None, time_option("--to", "Only records captured before this time.")]


class StoreChoice(StrEnum):
    """The blob store of the native stack."""

    MINIO = "minio"
    LOCAL = "local"


class Selection(TypedDict):
    """The parsed options, named like the fields of ExportSelection and ArchiveSelection."""

    kinds: "tuple[Kind, ...] | None"
    sites: tuple[str, ...] | None
    source_ids: tuple[str, ...] | None
    captured_from_us: int | None
    captured_until_us: int | None


def selection(
    kind: str | None, site: list[str] | None, source: list[str] | None, start: datetime | None, end: datetime | None
) -> Selection:
    """Return the parsed options; None for each that was not passed."""
    return {
        "kinds": tuple(sorted(parse_kinds(kind))) if kind else None,
        "sites": sorted_values(site),
        "source_ids": sorted_values(source),
        "captured_from_us": microseconds(start),
        "captured_until_us": microseconds(end),
    }


def sorted_values(values: list[str] | None) -> tuple[str, ...] | None:
    """Return the distinct values of a repeatable option, sorted; None if it was not passed."""
    return tuple(sorted(set(values))) if values else None


def microseconds(time: datetime | None) -> int | None:
    """Return a time in microseconds since 1970; a time without a zone is UTC."""
    from headrace.schemas.headers import unix_us_of

    return None if time is None else unix_us_of(time)


def parse_kinds(text: str) -> "frozenset[Kind]":
    """Parse a comma-separated list of kinds, singular or plural.

    Raises:
        HeadraceError: a name is not a kind.
    """
    from headrace.schemas.events import Kind, singular

    names = [singular(part.strip()) for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in set(Kind)]
    if unknown or not names:
        raise HeadraceError(
            "kind_unknown",
            f"{unknown[0]!r} is no kind" if unknown else "no kind was named",
            hint=f"one or more of: {', '.join(f'{kind}s' for kind in Kind)}",
            exit_code=Exit.USAGE,
        )
    return frozenset(Kind(name) for name in names)
