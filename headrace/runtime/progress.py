"""The progress bars of the command line: description, bar, count and elapsed time."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def count_bars(console: Console, *, is_shown: bool, description: str = "{task.description}") -> Progress:
    """Return bars that count items, and that disappear when they end; a context manager.

    `description` is the format of the first column.
    """
    columns = (TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not is_shown)
