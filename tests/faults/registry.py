"""The experiments by name."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import TypeAlias

from tests.faults.world import FaultsWorld, Shape

Run: TypeAlias = Callable[[FaultsWorld, int, Random], Counter[str]]


@dataclass(frozen=True, slots=True)
class Experiment:
    """A kind of fault. `ci` and `long` are how many faults the slice and the long run inject; 0: not part of it.

    With `of_messages` they are messages of which only some are faults. With `worldless` it brings what it needs itself,
    and the world is not checked after it.
    """

    name: str
    title: str
    run: Run = field(repr=False)
    ci: int
    long: int
    shape: Shape = field(default_factory=Shape)
    rate_hz: float = 25.0
    of_messages: bool = False
    worldless: bool = False


EXPERIMENTS: dict[str, Experiment] = {}


def experiment(
    name: str,
    title: str,
    *,
    ci: int,
    long: int,
    shape: Shape | None = None,
    rate_hz: float = 25.0,
    of_messages: bool = False,
    worldless: bool = False,
) -> Callable[[Run], Run]:
    """Register a function as an experiment: it injects `count` faults and returns them by kind."""

    def register(run: Run) -> Run:
        EXPERIMENTS[name] = Experiment(name, title, run, ci, long, shape or Shape(), rate_hz, of_messages, worldless)
        return run

    return register


def load() -> dict[str, Experiment]:
    """Import every module of experiments, and return them in the order of their numbers."""
    for path in sorted((Path(__file__).parent / "experiments").glob("[a-z]*.py")):
        import_module(f"tests.faults.experiments.{path.stem}")
    return dict(sorted(EXPERIMENTS.items(), key=lambda item: int(item[0][1:])))
