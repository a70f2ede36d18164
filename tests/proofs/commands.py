"""Headrace's commands as a proof runs them: as processes, some of them killed in the middle of their work."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg

from headrace.runtime.settings import Settings
from tests.processes import ServiceProcess, environment_of
from tests.waiting import until

_TURN_S = 0.02
_ANNOUNCED_S_MAX = 300.0


class Commands:
    """Commands with the settings of one stack."""

    def __init__(self, settings: Settings, **changes: str) -> None:
        """Give every command these settings; `changes` are variables beside them."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self._env = mine | environment_of(settings) | changes

    def run(self, *args: str, code: int = 0) -> dict[str, Any]:
        """Run a command to its end and return the last line of JSON that it printed; see `lines`."""
        lines = self.lines(*args, code=code)
        return lines[-1] if lines else {}

    def lines(self, *args: str, code: int = 0) -> list[dict[str, Any]]:
        """Run a command to its end and return the lines of JSON that it printed; see `text`."""
        return [json.loads(line) for line in self.text(*args, code=code).splitlines() if line.startswith("{")]

    def text(self, *args: str, code: int = 0) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            AssertionError: it ended with another code.
        """
        return self.both(*args, code=code)[0]

    def both(self, *args: str, code: int = 0) -> tuple[str, str]:
        """Run a command to its end and return what it printed, and what it said beside that; see `text`."""
        done = subprocess.run(_argv(args), env=self._env, capture_output=True, text=True, check=False)
        if done.returncode != code:
            raise AssertionError(f"headrace {args[0]} ended with {done.returncode}: {done.stderr[-600:]}")
        return done.stdout, done.stderr

    def start(self, *args: str) -> "subprocess.Popen[str]":
        """Start a command whose output the caller reads."""
        return subprocess.Popen(_argv(args), env=self._env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill(self, *args: str, when: Callable[[], bool], seconds: float = 300.0) -> None:
        """Start a command and end it with SIGKILL as soon as `when` says that it is in the middle.

        Raises:
            AssertionError: it ended by itself before that, so nothing would have been shown.
        """
        quiet = subprocess.DEVNULL
        with subprocess.Popen(_argv(args), env=self._env, stdout=quiet, stderr=quiet, start_new_session=True) as popen:
            until = time.monotonic() + seconds
            try:
                while not when():
                    if popen.poll() is not None or time.monotonic() > until:
                        raise AssertionError(f"headrace {args[0]} was not in the middle when it was to be killed")
                    time.sleep(_TURN_S)
                if popen.poll() is not None:
                    raise AssertionError(f"headrace {args[0]} ended before it was killed")
            finally:
                if popen.poll() is None:
                    os.killpg(popen.pid, signal.SIGKILL)


def announced(settings: Settings, commands: Commands, topic: str, directory: Path) -> Counter[str]:
    """Let a relay announce all that is to be announced; return how often each record is on the topic."""
    relay = ServiceProcess(settings, "relay", log=directory / "relay.log")
    try:
        relay.wait_ready()
        with connected(settings) as sql:

            def is_over() -> bool:
                return sql.execute("select 1 from outbox where published_at is null limit 1").fetchone() is None

            until(is_over, _ANNOUNCED_S_MAX, "everything to be announced")
    finally:
        relay.stop()
    return Counter(line["event"]["record_id"] for line in commands.lines("cat", topic))


def connected(settings: Settings) -> AbstractContextManager[psycopg.Connection[tuple[Any, ...]]]:
    """Connect to the catalog; every statement is its own transaction."""
    return psycopg.connect(settings.postgres_dsn.get_secret_value(), autocommit=True)


def _argv(args: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "headrace", *args]
