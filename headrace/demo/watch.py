"""Waiting until everything that was published has arrived, and showing how far it is."""

import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress

from headrace.demo.ledger import AckLedger, RecordKey
from headrace.demo.listener import CONSUMERS, Heard
from headrace.runtime.progress import count_bars
from headrace.schemas.events import Kind

STILL_S_MAX = 30.0  # without anything new, what has not arrived will not
ARRIVE_S_MAX = 180.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Awaited:
    """What must still be heard of: new records, the frames among them, and dead letters."""

    records: frozenset[RecordKey]
    frames: frozenset[str]
    dead_letters: int

    def missing(self, heard: Heard) -> int:
        """Return how much of it has not been heard of yet."""
        return (
            _absent(self.records, heard.announced_at_ms)
            + sum(_absent(self.frames, heard.frames[name]) for name in CONSUMERS)
            + max(0, self.dead_letters - len(heard.dead_letters))
        )


def awaited(ledger: AckLedger, known_before: frozenset[RecordKey]) -> Awaited:
    """Return what the ledger lets expect."""
    records = frozenset(ledger.good.values()) - known_before
    frames = frozenset(one.digest for one in records if one.kind is Kind.FRAME)
    return Awaited(records, frames, len(ledger.poison))


class DemoBars:
    """Three lines on standard error; nothing where that is no terminal."""

    def __init__(self, progress: Progress, ledger: AckLedger, heard: Heard) -> None:
        """Begin at zero."""
        self._progress = progress
        self._ledger = ledger
        self._heard = heard
        self._published = progress.add_task("published", total=None)
        self._announced = progress.add_task("announced", total=None)
        self._consumed = {name: progress.add_task(name, total=None) for name in CONSUMERS}

    def show(self, expected: Awaited | None = None) -> None:
        """Show the numbers as they are now."""
        done = None if expected is None else self._ledger.published
        records = None if expected is None else len(expected.records)
        frames = None if expected is None else len(expected.frames)
        self._progress.update(self._published, completed=self._ledger.published, total=done)
        self._progress.update(self._announced, completed=len(self._heard.announced_at_ms), total=records)
        for name, task in self._consumed.items():
            self._progress.update(task, completed=len(self._heard.frames[name]), total=frames)


@contextmanager
def bars(console: Console, ledger: AckLedger, heard: Heard) -> Iterator[DemoBars]:
    """Show progress while the block runs."""
    with count_bars(console, is_shown=console.is_terminal, description="{task.description:>13}") as progress:
        yield DemoBars(progress, ledger, heard)


def wait_until_arrived(expected: Awaited, heard: Heard, look: Callable[[], None]) -> None:
    """Wait until nothing is missing, or nothing has come for `STILL_S_MAX` seconds; `look` is called all the time."""
    began = moved = time.monotonic()
    missing = expected.missing(heard)
    while missing:
        now = time.monotonic()
        if now > moved + STILL_S_MAX or now > began + ARRIVE_S_MAX:
            return
        time.sleep(_LOOK_S)
        look()
        left = expected.missing(heard)
        moved = time.monotonic() if left < missing else moved
        missing = left


def _absent(wanted: Iterable[object], there: Container[object]) -> int:
    # One by one, because the listener adds to what is there meanwhile.
    return sum(1 for one in wanted if one not in there)
