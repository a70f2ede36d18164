"""Measured figures with their baselines and targets. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# docs/benchmarks.md explains them.
TARGETS = {
    "frames": "at least Redpanda Connect doing only Kafka → S3 on the same box (seen: 263 to 393/s, 53 to 79 MB/s)",
    "frames_half": "at least 1.7 times the rate of all distinct",
    "frames_cpu": "at most 0.9 ms",
    "frames_memory": "≤ 400 MB, flat",
    "ldos": "at least Redpanda Connect packing 1,000 into a tar, S3 only (seen: 18,600 to 19,700/s)",
    "ldos_cpu": "0.06 ms is Redpanda Connect's",
    "latency_p50": "≤ 30 ms",
    "latency_p99": "≤ 100 ms",
    "gateway": "≥ 300/s",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure; `baseline` names what was measured beside it in the same run, `ratio` is the ratio to it."""

    name: str
    what: str
    value: float
    unit: str
    baseline: str = ""
    ratio: float | None = None
    target: str = ""


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
    """The CPU seconds and deliveries of a worker since its first commit, and its peak memory."""

    cpu_s: float
    deliveries: int
    rss_bytes_max: int

    @property
    def cpu_ms_each(self) -> float:
        """CPU milliseconds per delivery."""
        return self.cpu_s * 1000 / self.deliveries if self.deliveries else 0.0


def rate(count: int, seconds: float) -> float:
    """Return the rate per second; 0 for no time."""
    return count / seconds if seconds > 0 else 0.0


def of_peer(value: float, peer: float) -> float | None:
    """Return the ratio to a baseline; None if it was not measured."""
    return round(value / peer, 2) if peer else None


def rows(figures: Sequence[Figure]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of the table: what, measured, baseline, target."""
    for figure in figures:
        baseline = f"{figure.ratio} of {figure.baseline}" if figure.ratio is not None else figure.baseline
        yield figure.what, f"{_shown(figure.value)} {figure.unit}", baseline, figure.target


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
                "target": figure.target,
            }
            for figure in figures
        },
    }


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
