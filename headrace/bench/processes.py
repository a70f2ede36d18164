"""The measured processes, run as in a deployment, and profiled where that is asked for."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from headrace.bench.figures import Worked
from headrace.native import StackInfo, status
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings

_STOP_S_MAX = 20
_WRITE_S_MAX = 60  # of a flame graph
_LOG_LINES_SHOWN = 3

# As in docker-compose.yml: avoids page faults on large buffers.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
}
_QUIET = {"HEADRACE_LOG_FORMAT": "json", "HEADRACE_HEALTH_PORT": "0"}


@dataclass(frozen=True, slots=True)
class Profiler:
    """Where py-spy is, and the folder of the flame graphs."""

    program: Path
    folder: Path

    def attach(self, pid: int, name: str) -> "subprocess.Popen[bytes]":
        """Write a flame graph of a process when that ends; no file is written over."""
        names = [name, *(f"{name}-{number}" for number in range(2, 100))]
        free = next(path for each in names if not (path := self.folder / f"{each}.svg").exists())
        return subprocess.Popen(
            [self.program, "record", "--pid", str(pid), "--output", free],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@dataclass(frozen=True, slots=True)
class Bench:
    """The environment of a benchmark: the stack, its settings, a folder for logs, and the name of the case.

    `more` are further variables of the measured processes.
    """

    info: StackInfo
    settings: Settings
    folder: Path
    case: str = ""
    profiler: Profiler | None = None
    more: Mapping[str, str] = field(default_factory=dict)


class MeasuredProcess:
    """A measured process of the service."""

    def __init__(self, bench: Bench, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        """Measure a process that has just started."""
        self._bench = bench
        self._name = name
        self._process = process
        self._log = log
        self._usage = psutil.Process(process.pid)
        self._start: tuple[float, int] | None = None
        self._rss_bytes_max = 0
        self.profile: subprocess.Popen[bytes] | None = None

    def sample(self, events: int) -> None:
        """Sample CPU and memory; measuring, and profiling, start with the first event.

        Raises:
            HeadraceError: the process ended.
        """
        if self._process.poll() is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
            raise HeadraceError(
                "process_ended",
                f"{self._name} ended with exit code {self._process.returncode}; its log ends: {' | '.join(lines)}",
            )
        self._rss_bytes_max = max(self._rss_bytes_max, self.rss_bytes)
        if self._start is None and events:
            self._start = (self.cpu_s, events)
            if self._bench.profiler is not None:
                self.profile = self._bench.profiler.attach(self._process.pid, f"{self._bench.case}-{self._name}")

    def worked(self, events: int) -> Worked:
        """Return the usage since measuring started."""
        began_cpu_s, began_at = self._start or (self.cpu_s, events)
        return Worked(self.cpu_s - began_cpu_s, events - began_at, self._rss_bytes_max)

    @property
    def cpu_s(self) -> float:
        """User and system time of the process in seconds."""
        times = self._usage.cpu_times()
        return float(times.user + times.system)

    @property
    def rss_bytes(self) -> int:
        """The resident memory."""
        return int(self._usage.memory_info().rss)


@contextmanager
def running(bench: Bench, *args: str) -> Iterator[MeasuredProcess]:
    """Run `headrace <args>` in the context.

    Raises:
        HeadraceError: its flame graph could not be written.
    """
    log = bench.folder / f"{'-'.join(args).replace('/', '-')}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "headrace", *args],
            env=os.environ | _MALLOC | bench.info.env() | _QUIET | dict(bench.more),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    measured = MeasuredProcess(bench, args[0], process, log)
    try:
        yield measured
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if measured.profile is not None and measured.profile.wait(_WRITE_S_MAX):
        raise HeadraceError(
            "profile_failed",
            f"py-spy could not read {args[0]}",
            hint="it needs root, or `sysctl kernel.yama.ptrace_scope=0`",
        )


def server_cpu_s(bench: Bench) -> dict[str, float]:
    """Return the CPU seconds that each server of the stack has used so far."""
    used = {}
    for server in status(bench.info.state_dir).processes:
        with suppress(psutil.Error):
            if server.pid is not None:
                root = psutil.Process(server.pid)
                times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
                # A parent's times hold those of the children that have ended.
                used[server.name] = sum(each.user + each.system for each in times) + (
                    times[0].children_user + times[0].children_system
                )
    return used
