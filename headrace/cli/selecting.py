"""Options by which several commands select records, and what they mean."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.processes import parse_kinds

if TYPE_CHECKING:
    from schemas.events import Kind

_TIMES = [f"{day}{zone}" for day in ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S")
          for zone in ("", "%z")]  # fmt: skip


def time_option(name: str, help_: str) -> Any:
    """Return an option that takes a time as people write it, and as commands print it, to the microsecond."""
    return typer.Option(name, formats=_TIMES, metavar="TIME", help=f"{help_} Like 2026-11-21T03:00:00; UTC.")


Kinds = Annotated[str | None, typer.Option("--kind", help="cids, frames, clips, ldos, or several of them.")]
Sites = Annotated[list[str] | None, typer.Option("--site", help="Only of this site; may be repeated.")]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Only of this camera or device; may be repeated.")]
CapturedFrom = Annotated[datetime | None, time_option("--from", "Only what was captured from then on.")]
CapturedBefore = Annotated[datetime | None, time_option("--to", "Only what was captured before then.")]


def sorted_kinds(text: str | None) -> "tuple[Kind, ...] | None":
    """Return the kinds that an option names; None where it was not given."""
    return tuple(sorted(parse_kinds(text))) if text else None


def sorted_values(values: list[str] | None) -> tuple[str, ...] | None:
    """Return the values of a repeated option; None where it was not given."""
    return tuple(sorted(set(values))) if values else None


def microseconds(time: datetime | None) -> int | None:
    """Return an option's time in microseconds since 1970; UTC where it names no zone."""
    if time is None:
        return None
    zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
    return round(zoned.timestamp() * 1_000_000)
