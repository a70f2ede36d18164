"""The experiments by name."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from tests.faults.line import Line
from tests.faults.plan import MIX, Mix
from tests.faults.world import FaultsWorld, Shape

Run: TypeAlias = Callable[[FaultsWorld, int, Random], Counter[str]]
LineRun: TypeAlias = Callable[[Line, int, Random], Counter[str]]
LEFT_OPEN = frozenset({"I13"})
"""What a single short experiment need not judge; a run of which no experiment did has not passed."""
LEFT_OPEN_ON_LINES = frozenset({"I7", "I12", "I13"})
"""A line is not watched, and its objects are all young."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A kind of fault. `ci` and `long` are how many faults the slice and the long run inject; 0: not part of it.

    With `of_messages` they are messages of which only some are faults. With `worldless` it brings what it needs itself,
    and the world is not checked after it. With `on_line` it has a line of its own, which is checked after it.
    `leaves_open` are invariants that it need not judge.
    """

    name: str
    title: str
    run: Callable[..., Counter[str]] = field(repr=False)
    ci: int
    long: int
    shape: Shape = field(default_factory=Shape)
    rate_hz: float = 25.0
    of_messages: bool = False
    worldless: bool = False
    on_line: bool = False
    mix: Mix = MIX
    leaves_open: frozenset[str] = LEFT_OPEN


EXPERIMENTS: dict[str, Experiment] = {}


def experiment(name: str, title: str, *, ci: int, long: int, **options: Any) -> Callable[[Run], Run]:
    """Register a function as an experiment: it injects `count` faults and returns them by kind.

    `options` are further fields of `Experiment`.
    """

    def register(run: Run) -> Run:
        EXPERIMENTS[name] = Experiment(name, title, run, ci, long, **options)
        return run

    return register


def line_experiment(name: str, title: str, *, ci: int, long: int) -> Callable[[LineRun], LineRun]:
    """Register a function as an experiment on a line of its own, which it starts and leaves running."""

    def register(run: LineRun) -> LineRun:
        EXPERIMENTS[name] = Experiment(name, title, run, ci, long, on_line=True, leaves_open=LEFT_OPEN_ON_LINES)
        return run

    return register


def load() -> dict[str, Experiment]:
    """Import every module of experiments, and return them in the order of their numbers."""
    for path in sorted((Path(__file__).parent / "experiments").glob("[a-z]*.py")):
        import_module(f"tests.faults.experiments.{path.stem}")
    return dict(sorted(EXPERIMENTS.items(), key=lambda item: int(item[0][1:])))
