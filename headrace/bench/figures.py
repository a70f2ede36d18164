"""Measured figures beside their peers and targets. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# As performance.md states them.
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
    """One measured figure; `beside` says what else was measured in the same run, and the ratio to it."""

    name: str
    what: str
    value: float
    unit: str
    beside: str = ""
    ratio: float | None = None
    target: str = ""


@dataclass(frozen=True, slots=True)
class CommittedRows:
    """What the catalog says of a backlog: when its first and last batch were committed and announced, in seconds.

    The rows of the first batch are not counted in a rate, because the time before it was spent on starting.
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
        """Deliveries in one transaction, on average."""
        return self.rows / self.batches if self.batches else 0.0

    @property
    def per_s(self) -> float:
        """Deliveries recorded in a second."""
        return rate(self.rows - self.first_rows, self.last_s - self.first_s)

    @property
    def through_per_s(self) -> float:
        """Deliveries in a second until the last record was announced: the full job."""
        return rate(self.rows - self.first_rows, max(self.last_s, self.announced_last_s) - self.first_s)


@dataclass(frozen=True, slots=True)
class Worked:
    """What a worker process needed from its first commit on: CPU seconds, deliveries, and its largest memory."""

    cpu_s: float
    deliveries: int
    rss_bytes_max: int

    @property
    def cpu_ms_each(self) -> float:
        """CPU milliseconds for one delivery."""
        return self.cpu_s * 1000 / self.deliveries if self.deliveries else 0.0


def rate(count: int, seconds: float) -> float:
    """Return how many a second; 0 where no time passed."""
    return count / seconds if seconds > 0 else 0.0


def of_peer(value: float, peer: float) -> float | None:
    """Return the ratio to a peer's figure; None where that was not measured."""
    return round(value / peer, 2) if peer else None


def rows(figures: Sequence[Figure]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the table: what, measured, beside it, target."""
    for one in figures:
        beside = f"{one.ratio} of {one.beside}" if one.ratio is not None else one.beside
        yield one.what, f"{_shown(one.value)} {one.unit}", beside, one.target


def as_json(figures: Sequence[Figure], machine: dict[str, Any]) -> dict[str, Any]:
    """Return the figures as `headrace bench --json` prints them."""
    return {
        "machine": machine,
        "figures": {
            one.name: {
                "what": one.what,
                "value": round(one.value, 3),
                "unit": one.unit,
                "beside": one.beside,
                "ratio": one.ratio,
                "target": one.target,
            }
            for one in figures
        },
    }


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
