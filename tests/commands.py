"""Run `headrace` commands: in this process, which costs no start-up, or as a process that may be killed."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn
from unittest.mock import patch

import pytest

from headrace.batch import redrive
from headrace.batch.archive import move
from headrace.batch.erase import run as erase
from headrace.batch.fsck import repair
from headrace.batch.replay import run as replay
from headrace.batch.replay import sinks
from headrace.runtime.crash_points import VARIABLE, CrashPoint, armed
from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from tests.processes import environment_of

COMMAND_S_MAX = 90.0
CRASHING_MODULES = (redrive, move, repair, erase, replay, sinks)


class CrashError(BaseException):
    """Stands for the end of the process: no `except Exception` of the code may see it."""


@dataclass(frozen=True)
class CommandResult:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The JSON object on the last line, or an empty one where nothing was printed."""
        return dict(json.loads(self.out.splitlines()[-1])) if self.out.strip() else {}


RunCommand = Callable[..., CommandResult]


def run_in_process(settings: Settings, *args: str, crash_at: str = "", **environment: str) -> CommandResult:
    """Run a command in this process, on a thread of its own; at the crash point `crash_at` an exception ends it."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with (
        patch.dict(os.environ, clean_environment(settings) | environment, clear=True),
        patch.object(sys, "argv", ["headrace", *args]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _raising_at(crash_at),
        ThreadPoolExecutor(1) as thread,  # the caller's thread may have an event loop that runs
    ):
        code = thread.submit(_exit_code).result()
    return CommandResult(code, _text(out), _text(err))


def run_as_process(settings: Settings, *args: str, crash_at: str = "", **environment: str) -> CommandResult:
    """Run a command as a process; at the crash point `crash_at` it ends as if it had been killed."""
    armed_environment = {VARIABLE: crash_at} if crash_at else {}
    process = subprocess.run(
        [sys.executable, "-m", "headrace", *args],
        env=clean_environment(settings) | environment | armed_environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S_MAX,
    )
    return CommandResult(process.returncode, process.stdout, process.stderr)


def headrace(
    settings: Settings,
    *args: str,
    code: int = Exit.OK,
    crash_at: str = "",
    run: RunCommand = run_in_process,
    **environment: str,
) -> CommandResult:
    """Run a command that has to end with `code`, or at a crash point if one is named."""
    result = run(settings, *args, crash_at=crash_at, **environment)
    assert result.code == (Exit.CRASHED if crash_at else code), result.err
    return result


def ended_at_each(points: list[CrashPoint], process_at: CrashPoint) -> pytest.MarkDecorator:
    """Run a test with each point in this process, and with a process that ends; `make test` has one of these."""
    in_process = [pytest.param(run_in_process, point, id=str(point)) for point in points]
    as_process = [
        pytest.param(
            run_as_process, point, id=f"{point}-process", marks=() if point is process_at else pytest.mark.faults
        )
        for point in points
    ]
    return pytest.mark.parametrize(("run", "point"), [*in_process, *as_process])


def clean_environment(settings: Settings) -> dict[str, str]:
    """This process's environment with `settings` as the only settings in it."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return others | environment_of(settings)


@contextlib.contextmanager
def _raising_at(crash_at: str) -> Iterator[None]:
    def end(point: str, nth: int) -> NoReturn:
        raise CrashError(point, nth)

    reached = armed({VARIABLE: crash_at}, end)
    with contextlib.ExitStack() as patches:
        for module in CRASHING_MODULES:
            patches.enter_context(patch.object(module, "reached", reached))
        yield


def _exit_code() -> int:
    from headrace.cli.app import main

    try:
        main()
    except SystemExit as end:
        return int(end.code or Exit.OK)
    except CrashError:
        return Exit.CRASHED
    return Exit.OK


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()
