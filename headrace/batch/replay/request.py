"""What a replay delivers, to where and how fast, as values and as text. Pure."""

from dataclasses import asdict, dataclass
from datetime import timedelta
from math import isfinite
from typing import Any
from uuid import UUID

import orjson

from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.headers import rfc3339
from headrace.schemas.topics import INSTALLATION_TOPIC, TOPICS
from headrace.store.catalog.replays import ReplayPlan, ReplaySelection

VERSION = 1
STDOUT = "stdout"
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What is replayed, and to where: `sink` is "topic:NAME", "handler:MODULE:FUNCTION" or "stdout".

    `excluded` are records of the selection that are passed over.
    """

    wanted: ReplaySelection
    sink: str
    excluded: tuple[UUID, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the request as the catalog keeps it: a replay of the same name has to be the same."""
        fields = {"version": VERSION, "sink": self.sink, "selection": asdict(self.wanted), "excluded": self.excluded}
        as_kept: dict[str, Any] = orjson.loads(orjson.dumps(fields, default=str))
        return as_kept


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a replay goes: `speed` times as fast as it was captured, None for at once; at most `rate` a second."""

    speed: float | None = None
    rate: float | None = None


class Schedule:
    """When each item is due, in seconds since the run began; the first one that is asked for is due at once."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._first_us: int | None = None
        self._asked = 0

    def due_s(self, captured_us: int | None) -> float:
        """Return when the next item is due; call it once for each, in order. One without a time is due at once."""
        by_rate_s = self._asked / self._pace.rate if self._pace.rate else 0.0
        if captured_us is None:
            return by_rate_s
        self._asked += 1
        if self._first_us is None:
            self._first_us = captured_us
        by_time_s = (captured_us - self._first_us) / _MICROSECONDS / self._pace.speed if self._pace.speed else 0.0
        return max(by_rate_s, by_time_s)


def parse_speed(text: str) -> float | None:
    """Parse `max` or a positive number.

    Raises:
        HeadraceError: it is neither.
    """
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not (isfinite(speed) and speed > 0):
        raise _invalid(f"{text!r} is not a speed", "a number such as 1 or 10, times as fast as captured, or max")
    return speed


def check_topic(name: str) -> None:
    """Refuse the service's own topics as a target.

    An event on an input topic would be ingested again, and one on an output topic would be an announcement.

    Raises:
        HeadraceError: it is one of them, or the mirrored copy of one.
    """
    if any(name == own or name.endswith(f".{own}") for own in (*TOPICS, INSTALLATION_TOPIC)) or name.startswith("__"):
        raise _invalid(
            f"{name} is a topic of Headrace or of Kafka",
            "choose a topic of your own; `headrace topics rebuild` restores announcements",
        )


def plan_lines(plan: ReplayPlan, pace: Pace) -> list[str]:
    """Return what a plan says, in lines of at most 80 columns where names are short."""
    items = plan.total("items")
    lines = [f"{items} events, {plan.total('bytes')} bytes: {_by_kind(plan) or 'nothing is selected'}"]
    lines += [f"from {site.site}: {site.items} events of {site.sources} sources" for site in plan.sites]
    if items:
        first_us, last_us = min(kind.first_us for kind in plan.kinds), max(kind.last_us for kind in plan.kinds)
        lines.append(f"captured {rfc3339(first_us)} to {rfc3339(last_us)}")
        lines.append(f"takes about {_duration(plan, pace, (last_us - first_us) / _MICROSECONDS)}")
    if archived := plan.total("archived"):
        lines.append(f"{archived} of them are archived, {plan.total('archived_bytes')} bytes")
    if missing := plan.total("missing"):
        lines.append(f"{missing} of them have no bytes here, and are left out")
    if plan.unknown:
        lines.append(f"{plan.unknown} digests have no record; {plan.erased} of these were erased")
    return lines


def _by_kind(plan: ReplayPlan) -> str:
    return ", ".join(f"{kind.items} {kind.kind}s" for kind in plan.kinds)


def _duration(plan: ReplayPlan, pace: Pace, captured_s: float) -> str:
    by_time_s = captured_s / pace.speed if pace.speed else 0.0
    by_rate_s = plan.total("items") / pace.rate if pace.rate else 0.0
    seconds = max(by_time_s, by_rate_s)
    return str(timedelta(seconds=round(seconds))) if seconds else "as long as it takes at full speed"


def _invalid(what: str, hint: str) -> HeadraceError:
    return HeadraceError("option_invalid", what, hint=hint, exit_code=Exit.USAGE)
