"""The measured processes, run as in a deployment."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from headrace.bench.figures import Worked
from headrace.runtime.errors import HeadraceError

_STOP_S_MAX = 20
_LOG_LINES_SHOWN = 3

# As in docker-compose.yml: avoids page faults on large buffers.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
}


class MeasuredProcess:
    """A measured process of the service."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        """Measure a process that has just started."""
        self._name = name
        self._process = process
        self._log = log
        self._usage = psutil.Process(process.pid)
        self._start: tuple[float, int] | None = None
        self._rss_bytes_max = 0

    def sample(self, deliveries: int) -> None:
        """Sample CPU and memory; measuring starts with the first recorded delivery.

        Raises:
            HeadraceError: the process ended.
        """
        if self._process.poll() is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
            raise HeadraceError(
                "process_ended",
                f"{self._name} ended with exit code {self._process.returncode}; its log ends: {' | '.join(lines)}",
            )
        self._rss_bytes_max = max(self._rss_bytes_max, self._usage.memory_info().rss)
        if self._start is None and deliveries:
            self._start = (self._cpu_s(), deliveries)

    def worked(self, deliveries: int) -> Worked:
        """Return the usage since measuring started."""
        began_cpu_s, began_at = self._start or (self._cpu_s(), deliveries)
        return Worked(self._cpu_s() - began_cpu_s, deliveries - began_at, self._rss_bytes_max)

    def _cpu_s(self) -> float:
        times = self._usage.cpu_times()
        return float(times.user + times.system)


@contextmanager
def running(args: tuple[str, ...], env: Mapping[str, str], folder: Path) -> Iterator[MeasuredProcess]:
    """Run `headrace <args>` in the context."""
    log = folder / f"{'-'.join(args).replace('/', '-')}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "headrace", *args],
            env={**os.environ, **_MALLOC, **env, "HEADRACE_LOG_FORMAT": "json", "HEADRACE_HEALTH_PORT": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield MeasuredProcess(args[0], process, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
