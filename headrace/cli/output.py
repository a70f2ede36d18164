"""Output of commands: data on standard output, messages on standard error, and with --json one JSON object last.

Ingested text is untrusted, so control characters are escaped and nothing is interpreted as markup.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from typer.core import TyperGroup

from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


PIPED_COLUMNS = 100_000


class SummaryGroup(TyperGroup):
    """Lists each command with its whole summary, which Typer would cut off at the end of the line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, " ".join((command.help or "").partition("\n\n")[0].split()))
                    for name, command in commands
                    if command is not None and not command.hidden
                ]
            )


@cache
def stderr_console() -> "Console":
    """Return the console for progress and messages."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


@cache
def stdout_console() -> "Console":
    """Return the console for data."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@cache
def _unprintable() -> re.Pattern[str]:
    from headrace.schemas.validate import UNSHOWABLE

    return re.compile(f"{UNSHOWABLE.pattern}|[\ud800-\udfff]")


def shown(text: str) -> str:
    r"""Escape control characters as in Python literals: `\x1b`, `\n`, `\u202e`."""
    return _unprintable().sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(line: str) -> None:
    """Print a message to standard error; all control characters but line breaks are escaped."""
    from rich.text import Text

    stderr_console().print(Text("\n".join(map(shown, line.split("\n")))))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of data, folded at the width of a terminal; control characters are escaped."""
    from rich.text import Text

    console = stdout_console()
    for line in lines:
        console.print(Text(shown(line)), soft_wrap=not console.is_terminal)


def write_file(path: "Path", data: bytes) -> None:
    """Write the file that an option names.

    Raises:
        HeadraceError: it cannot be written.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise HeadraceError(
            "file_unwritable", f"cannot write: {error.strerror}", where=str(path), exit_code=Exit.USAGE
        ) from None


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object as the last line on standard output."""
    import orjson

    from headrace.schemas.validate import UNSHOWABLE

    text = orjson.dumps(value, default=str).decode()
    # orjson escapes only characters below U+0020.
    sys.stdout.write(UNSHOWABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows below column headings; what is too wide for a terminal is folded, and when piped nothing is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        # An id or a name stays whole, so that it can be copied.
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text("" if cell is None else shown(str(cell))) for cell in row))
    console = stdout_console()
    (console if console.is_terminal else Console(width=PIPED_COLUMNS, highlight=False)).print(table)


def json_value(value: Any) -> Any:
    """Convert a value to JSON types: dataclasses to objects, ids to strings, the bytes `attributes` to an object."""
    import orjson

    if is_dataclass(value) and not isinstance(value, type):
        members = {field.name: json_value(getattr(value, field.name)) for field in fields(value)}
        if "attributes" in members:
            members["attributes"] = orjson.loads(members["attributes"])
        return members
    match value:
        case UUID():
            return str(value)
        case dict():
            return {str(name): json_value(item) for name, item in value.items()}
        case list() | tuple():
            return [json_value(item) for item in value]
        case _:
            return value
