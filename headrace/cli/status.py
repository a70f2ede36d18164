"""`headrace status`: what each process answers, the room on disk, the backlog and the dead letters."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from headrace.cli.environment import needs
from headrace.cli.options import Json
from headrace.cli.output import print_json, print_lines, print_table, stdout_console
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from headrace.native import StackStatus
    from headrace.native.disks import Disk
    from headrace.runtime.backlog import Backlog
    from headrace.runtime.settings import Settings

T = TypeVar("T")

WATCH_S = 2.0
_LETTERS_S_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """A figure, or the reason why it is not known."""

    value: T | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that `headrace status` shows; `free_bytes_min` is the limit of HEADRACE_DISK_FREE_BYTES_MIN."""

    stack: "StackStatus"
    disks: "tuple[Disk, ...]" = ()
    free_bytes_min: int = 0
    backlogs: "Known[list[Backlog]]" = Known()
    letters: Known[dict[str, int]] = Known()

    @property
    def full_disks(self) -> "tuple[Disk, ...]":
        """The file systems with too little room."""
        return tuple(disk for disk in self.disks if disk.free_bytes < self.free_bytes_min)

    @property
    def exit_code(self) -> Exit:
        """3 if the stack is not running, 1 if a process is not ready or a disk is full, else 0."""
        if not self.stack.running:
            return Exit.UNREACHABLE
        return Exit.OK if self.stack.healthy and not self.full_disks else Exit.FAILED


@needs("native")
def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Ask each process of the stack whether it is ready, and show disk, backlog and dead letters.

    Exit 1: a process is not ready, or a disk has too little room. Exit 3: the stack is not running.
    """
    from headrace.runtime.settings import load_settings

    state_dir = load_settings().state_dir
    show = _show_json if as_json else _show
    report = gathered(state_dir)
    while watch:
        if not as_json:
            stdout_console().clear()
        show(report)
        time.sleep(WATCH_S)
        report = gathered(state_dir)
    show(report)
    if not report.stack.running:
        raise stack_not_running(report.stack.state_dir)
    raise typer.Exit(report.exit_code)


def stack_not_running(state_dir: Path) -> HeadraceError:
    """Return the error for a command that needs a running stack."""
    return HeadraceError(
        "stack_not_running",
        "the stack is not running",
        where=str(state_dir),
        hint="start it with `headrace up`",
        exit_code=Exit.UNREACHABLE,
    )


def gathered(state_dir: Path) -> Report:
    """Ask processes, Kafka and PostgreSQL at the same time, each for a few seconds at most."""
    from headrace.native import StackInfo
    from headrace.native.config import read_config
    from headrace.native.disks import disks_of
    from headrace.native.layout import StateDir
    from headrace.native.readiness import asked_status
    from headrace.runtime.settings import load_settings
    from headrace.runtime.stack_settings import settings_of_stack

    config, state = read_config(StateDir.at(state_dir)), StateDir.at(state_dir)
    if config is None or config.tools is None:
        return Report(asked_status(state_dir))
    settings = settings_of_stack(StackInfo.of(config, state).env())
    with ThreadPoolExecutor(3) as pool:
        stack = pool.submit(asked_status, state_dir)
        backlogs = pool.submit(_known, lambda: _backlogs(settings)) if config.services else None
        letters = pool.submit(_known, lambda: _letters(settings)) if config.services else None
        return Report(
            stack.result(),
            disks_of(state, config),
            load_settings().disk_free_bytes_min,
            backlogs.result() if backlogs else Known(),
            letters.result() if letters else Known(),
        )


def _known(ask: Callable[[], T]) -> Known[T]:
    try:
        return Known(ask())
    except HeadraceError as error:
        return Known(why=error.what)
    except TimeoutError:
        return Known(why=f"no answer within {_LETTERS_S_MAX:.0f} s")


def _backlogs(settings: "Settings") -> "list[Backlog]":
    from headrace.runtime.backlog import read_backlogs

    return read_backlogs(settings)


def _letters(settings: "Settings") -> dict[str, int]:
    """Return the number of dead letters by state."""
    import asyncio
    from collections import Counter

    from headrace.store.catalog.dead_letters import DeadLetters, LetterFilters

    async def count() -> dict[str, int]:
        async with (
            asyncio.timeout(_LETTERS_S_MAX),
            DeadLetters.open(settings.postgres_dsn.get_secret_value()) as letters,
        ):
            numbers: Counter[str] = Counter()
            for (state, _), number in (await letters.counts(LetterFilters())).items():
                numbers[state] += number
            return dict(numbers)

    return asyncio.run(count())


def _show(report: Report) -> None:
    stack = report.stack
    if not stack.processes:
        return
    print_table(
        ("process", "state", "pid", "restarts", "address"),
        [
            (process.name, process.state.value.replace("_", " "), process.pid, process.restarts, process.address)
            for process in stack.processes
        ],
    )
    if stack.running:
        print_lines(["", *notes(report), *figures(report)])


def notes(report: Report) -> list[str]:
    """Return a line for each thing that is wrong, and for the last exit of each process that was restarted."""
    lines = [
        f"{process.name} lacks {need}: {fault}" if need != "process" else f"{process.name}: {fault}"
        for process in report.stack.processes
        for need, fault in process.missing.items()
    ]
    lines += [f"{process.name} ended: {process.last_exit}" for process in report.stack.processes if process.last_exit]
    lines += [
        f"disk almost full: {_size(disk.free_bytes)} free below {disk.path}; free space, or see docs/runbook.md"
        for disk in report.full_disks
    ]
    return lines


def figures(report: Report) -> list[str]:
    """Return the lines about disk, backlog and dead letters."""
    lines = [
        f"disk: {_size(disk.free_bytes)} of {_size(disk.total_bytes)} free ({', '.join(disk.holds)})"
        for disk in report.disks
    ]
    if report.backlogs.why:
        lines.append(f"backlog: not known: {report.backlogs.why}")
    elif report.backlogs.value is not None:
        waiting = [backlog for backlog in report.backlogs.value if backlog.messages]
        lines.append("backlog: " + (", ".join(map(_backlog_text, waiting)) or "nothing waits"))
    if report.letters.why:
        lines.append(f"dead letters: not known: {report.letters.why}")
    elif report.letters.value is not None:
        states = [f"{number} {state.replace('_', ' ')}" for state, number in sorted(report.letters.value.items())]
        lines.append("dead letters: " + (", ".join(states) or "none"))
    return lines


def _backlog_text(backlog: "Backlog") -> str:
    if backlog.oldest_us is None:
        return f"{backlog.messages} in {backlog.topic}"
    age_s = max(0, time.time_ns() // 1_000_000_000 - backlog.oldest_us // 1_000_000)
    return f"{backlog.messages} in {backlog.topic}, the oldest for {_duration(age_s)}"


def _duration(seconds: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _size(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _show_json(report: Report) -> None:
    from headrace.schemas.headers import rfc3339

    disks: list[dict[str, Any]] = [
        {
            "holds": list(disk.holds),
            "path": str(disk.path),
            "free_bytes": disk.free_bytes,
            "total_bytes": disk.total_bytes,
            "full": disk in report.full_disks,
        }
        for disk in report.disks
    ]
    backlogs = None
    if report.backlogs.value is not None:
        backlogs = {
            backlog.topic: {
                "messages": backlog.messages,
                "oldest": None if backlog.oldest_us is None else rfc3339(backlog.oldest_us),
            }
            for backlog in report.backlogs.value
        }
    unknown = {"backlog": report.backlogs.why, "dead_letters": report.letters.why}
    print_json(
        report.stack.public()
        | {
            "healthy": report.exit_code == Exit.OK,
            "disks": disks,
            "backlog": backlogs,
            "dead_letters": report.letters.value,
            "unknown": {name: why for name, why in unknown.items() if why},
        }
    )
