"""What commands print: data on standard output, talk on standard error, one JSON object last where it is asked for."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

talk = Console(stderr=True, highlight=False, soft_wrap=True)
data = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print a line of progress to standard error."""
    talk.print(line, markup=False)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object as the last line on standard output."""
    sys.stdout.write(orjson.dumps(value, default=str).decode() + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows below their headings; understandable without colour, whole when piped."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=False)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    (data if data.is_terminal else Console(width=200, highlight=False)).print(table)
