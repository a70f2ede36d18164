"""A bar on standard error that says how far a run is."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from headrace.batch.fetch.outcome import FetchOutcome, FetchStatus, FetchTally


class Bar:
    """Shows counts while a run goes on; nothing where it is not asked for."""

    def __init__(self, total: int | None, *, shown: bool) -> None:
        self._tally = FetchTally()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not shown,
        )
        self._task = self._progress.add_task(self._said(), total=total)

    def __enter__(self) -> Self:
        """Begin to show it."""
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take it away."""
        self._progress.stop()

    def add(self, outcome: FetchOutcome) -> None:
        """Move it on."""
        self._tally.add(outcome)
        self._progress.update(self._task, advance=1, description=self._said())

    def _said(self) -> str:
        return ", ".join(f"{self._tally.by_status[status]} {status.value}" for status in FetchStatus)
