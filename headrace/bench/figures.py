"""Measured figures with their baselines and targets. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """A bound, and what to reach for beyond it; of the value, or of its ratio to the baseline."""

    bound: float
    reach_for: float | None = None
    at_most: bool = False
    of_ratio: bool = False

    def is_met(self, value: float, limit: float) -> bool:
        """Whether the value is on the right side of a limit."""
        return value <= limit if self.at_most else value >= limit

    @property
    def says(self) -> str:
        """The target in words."""
        limit = f"{'≤' if self.at_most else '≥'} {self.bound:,g}"
        return limit if self.reach_for is None else f"{limit}, better {self.reach_for:,g}"


TARGETS = {
    "frames_per_s": Target(0.7, 0.85, of_ratio=True),
    "frames_half_per_s": Target(1.7, 1.9, of_ratio=True),
    "frames_cpu_ms": Target(1.0, 0.7, at_most=True),
    "frames_rss_mb": Target(400, at_most=True),
    "ldos_per_s": Target(2.0, 3.0, of_ratio=True),
    "ldos_cpu_ms": Target(0.08, 0.04, at_most=True),
    "relay_per_s": Target(20_000),
    "latency_ms_p50": Target(30, 15, at_most=True),
    "latency_ms_p99": Target(100, at_most=True),
    "gateway_per_s": Target(0.5, 0.7, of_ratio=True),
    "gateway_ms_p50": Target(150, at_most=True),
    "idle_percent": Target(1.0, at_most=True),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure; `baseline` names what was measured beside it in the same run, `ratio` is the ratio to it."""

    name: str
    what: str
    value: float
    unit: str = ""
    baseline: str = ""
    ratio: float | None = None

    @property
    def target(self) -> Target | None:
        """What is to be reached; a target of a ratio needs the baseline."""
        target = TARGETS.get(self.name)
        return None if target is None or (target.of_ratio and self.ratio is None) else target

    @property
    def verdict(self) -> str:
        """`missed`, `reached`, or `surpassed` where what to reach for is reached too; empty without a target."""
        if self.target is None:
            return ""
        value = self.ratio if self.target.of_ratio and self.ratio is not None else self.value
        if not self.target.is_met(value, self.target.bound):
            return "missed"
        reach_for = self.target.reach_for
        return "surpassed" if reach_for is not None and self.target.is_met(value, reach_for) else "reached"


@dataclass(frozen=True, slots=True)
class CommittedRows:
    """The commits and announcements of a backlog; times in seconds since 1970.

    Rates exclude the rows of the first batch, whose time includes the start-up.
    """

    rows: int
    batches: int
    first_rows: int
    first_s: float
    last_s: float
    announced: int
    announced_last_s: float

    @property
    def batch_rows(self) -> float:
        """Average deliveries per transaction."""
        return self.rows / self.batches if self.batches else 0.0

    @property
    def per_s(self) -> float:
        """Deliveries recorded per second."""
        return rate(self.rows - self.first_rows, self.last_s - self.first_s)

    @property
    def through_per_s(self) -> float:
        """Deliveries per second until the last record was announced."""
        return rate(self.rows - self.first_rows, max(self.last_s, self.announced_last_s) - self.first_s)


@dataclass(frozen=True, slots=True)
class Worked:
    """The CPU seconds of a process, the events in that time, and its peak memory."""

    cpu_s: float
    events: int
    rss_bytes_max: int = 0

    @property
    def cpu_ms_each(self) -> float:
        """CPU milliseconds per event."""
        return self.cpu_s * 1000 / self.events if self.events else 0.0


def rate(count: int, seconds: float) -> float:
    """Return the rate per second; 0 for no time."""
    return count / seconds if seconds > 0 else 0.0


def beside(figure: Figure, baseline: str, value: float) -> Figure:
    """Return the figure with its ratio to a baseline; without one if the baseline was not measured."""
    if not value:
        return figure
    named = f"{baseline} ({shown(value)}{figure.unit})"
    return Figure(figure.name, figure.what, figure.value, figure.unit, named, round(figure.value / value, 2))


def ratio_rows(figures: Sequence[Figure]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the rows of the first table: what, ratio, to which baseline, target, verdict."""
    for figure in figures:
        if figure.ratio is not None:
            target = figure.target if figure.target and figure.target.of_ratio else None
            verdict = figure.verdict if target else ""
            yield figure.what, f"{figure.ratio:g}", figure.baseline, target.says if target else "", verdict


def rows(figures: Sequence[Figure]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of the second table: what, measured, target, verdict."""
    first = {figure.what: figure for figure in reversed(figures)}  # it is there once for each of its baselines
    for figure in reversed(first.values()):
        target = figure.target if figure.target and not figure.target.of_ratio else None
        measured = f"{shown(figure.value)} {figure.unit}".rstrip()
        yield figure.what, measured, target.says if target else "", figure.verdict if target else ""


def conclusion(figures: Sequence[Figure]) -> str:
    """Return how many targets are reached."""
    verdicts = [figure.verdict for figure in figures if figure.verdict]
    return f"{len(verdicts) - verdicts.count('missed')} of {len(verdicts)} targets reached"


def as_json(figures: Sequence[Figure], machine: dict[str, Any]) -> dict[str, Any]:
    """Return the figures as `headrace bench --json` prints them."""
    return {
        "machine": machine,
        "figures": {
            figure.name: {
                "what": figure.what,
                "value": round(figure.value, 3),
                "unit": figure.unit,
                "beside": figure.baseline,
                "ratio": figure.ratio,
                "target": figure.target.says if figure.target else "",
                "verdict": figure.verdict,
            }
            for figure in figures
        },
    }


def shown(value: float) -> str:
    """Return a value with about three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
