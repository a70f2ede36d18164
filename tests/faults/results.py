"""An experiment to carry out, what it gave, and how that is told."""

import sys
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.acks import Acks
from tests.faults.checker import CheckResult
from tests.faults.observed import Observed
from tests.faults.possible import NotPossibleError
from tests.faults.registry import Experiment


@dataclass(frozen=True, slots=True)
class Task:
    """One experiment to carry out."""

    experiment: Experiment
    count: int
    seed: int
    rate_hz: float

    def result(self, **gave: Any) -> "Result":
        """Return what it gave, by the names of the fields of a result."""
        experiment = self.experiment
        about = {"experiment": experiment.name, "title": experiment.title, "seed": self.seed, "count": self.count}
        return Result(**about, **{"faults": {}, **gave})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one experiment gave: its JSON line. `invariants` are None where the experiment judges itself."""

    experiment: str
    title: str
    seed: int
    count: int
    faults: dict[str, int]
    attempted: int = 0
    acked: int = 0
    deliveries: int = 0
    duplicates_delivered: int = 0
    announced: int = 0
    invariants: dict[str, int | None] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    watch: dict[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    ok: bool = False
    note: str = ""

    @property
    def line(self) -> dict[str, object]:
        """The result as it is printed."""
        return {name: value for name, value in asdict(self).items() if value not in ({}, "")}


def figures(acks: Acks, observed: Observed, verdict: CheckResult) -> dict[str, Any]:
    """Return the fields of a result that say what was observed, and what the checker says of it."""
    return {
        "attempted": len(acks.attempts),
        "acked": len(acks.acks),
        "deliveries": observed.deliveries,
        "duplicates_delivered": observed.deliveries - observed.distinct,
        "announced": observed.announced,
        "invariants": dict(verdict.counts),
        "examples": verdict.examples,
    }


def holds(verdict: CheckResult, leaves_open: AbstractSet[str]) -> bool:
    """Whether nothing is broken, and everything was judged but what such an experiment leaves open."""
    return not verdict.broken and verdict.unjudged <= leaves_open


def reason(error: BaseException) -> str:
    """Return what a result says of an exception."""
    if isinstance(error, NotPossibleError):
        return f"not possible here: {error}"
    return f"{type(error).__name__}: {error}"[:500]


def since(began: float) -> float:
    """Return the seconds since a time of the monotonic clock, as a result has them."""
    return round(time.monotonic() - began, 1)


def never_judged(results: Sequence[Result]) -> list[str]:
    """Return the invariants that no experiment could judge; they have not passed."""
    names = dict.fromkeys(name for result in results for name in result.invariants)
    return [name for name in names if all(result.invariants.get(name) is None for result in results)]


class Say:
    """Tells what happens as it happens."""

    def progress(self, text: str) -> None:
        """Tell a step, on standard error."""
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        sys.stderr.flush()

    def result(self, result: Result) -> Result:
        """Tell a result."""
        return result
