"""`headrace logs`: the log files of the stack as readable lines, times first."""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.environment import needs
from headrace.cli.output import print_json, shown, stdout_console
from headrace.cli.status import stack_not_running
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from headrace.native.log_lines import LogLine

_STYLES = {"debug": "dim", "info": "", "warning": "yellow", "error": "bold red"}


class Level(StrEnum):
    """A level of log lines."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@needs("native")
def logs(
    process: Annotated[
        str | None, typer.Argument(help="A process of `headrace status`. [default: all]", show_default=False)
    ] = None,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait for new lines, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="Number of earlier lines to show.")] = 50,
    level: Annotated[
        Level | None, typer.Option(help="The lowest level. [default: info; of all processes, warning of servers]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each line as a JSON object.")] = False,
) -> None:
    """Show the logs of the stack, merged by time (UTC)."""
    from headrace.native.config import read_config
    from headrace.native.layout import StateDir
    from headrace.native.log_files import LogTail, followed, log_names
    from headrace.native.log_lines import LEVELS, parsed
    from headrace.runtime.settings import load_settings

    state = StateDir.at(load_settings().state_dir)
    config, names = read_config(state), log_names(state)
    if not names:
        raise stack_not_running(state.root)
    chosen = names if process is None else [_checked(process, names)]
    service = {"init", "supervisor", *(spec.name for spec in config.services)} if config else set(names)

    def is_shown(line: "LogLine") -> bool:
        if level is not None:
            return line.rank >= LEVELS.index(level)
        return line.rank >= LEVELS.index("warning" if process is None and line.process not in service else "info")

    tails = [(name, LogTail(state.log(name))) for name in chosen]
    earlier = [line for name, tail in tails for line in parsed(name, tail.last()) if is_shown(line)]
    _print(sorted(earlier, key=lambda line: line.time)[-lines:], as_json=as_json)
    if follow:
        for name, appended in followed(tails):
            _print(filter(is_shown, parsed(name, appended)), as_json=as_json)


def _checked(process: str, names: list[str]) -> str:
    if process not in names:
        near = get_close_matches(process, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(names)}"
        raise HeadraceError("process_unknown", f"no process {process!r} has a log", hint=hint, exit_code=Exit.USAGE)
    return process


def _print(lines: "Iterable[LogLine]", *, as_json: bool) -> None:
    from rich.text import Text

    console = stdout_console()
    for line in lines:
        if as_json:
            print_json(
                {"time": line.time or None, "level": line.level, "process": line.process, "text": line.text}
                | dict(line.members)
            )
            continue
        stamp = line.time[:19].replace("T", " ") or " " * 19
        text = Text.assemble(
            (stamp, "dim"),
            " ",
            (f"{line.level:7}", _STYLES[line.level]),
            " ",
            (f"{line.process} ", "cyan"),
            (shown(line.shown()), _STYLES[line.level]),
        )
        console.print(text, soft_wrap=True)
