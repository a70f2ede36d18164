"""A whole stack of `headrace up` on a file system that fills up to its last byte, and later has room again.

Kafka's log, PostgreSQL's WAL, the store, the supervisor's own files and all logs are on it. Needs root, to mount it.
While it is full `headrace status` says so and exits with 1, and events go into a spool elsewhere. When there is room,
every process serves again without help, and every event that was acknowledged or spooled is ingested.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COUNT = 60
"""Codes that are published: a third before, a third while the disk is full, a third afterwards."""
_SIZE_MB = 900
_FREE_MIN = 100 * 1024 * 1024
_FULL_S = 45.0
_RECOVERS_S_MAX = 180.0


def prove(count: int, say: Callable[[str], None]) -> list[str]:
    """Fill the disk and make room; return what did not hold."""
    with _small_disk() as folder, tempfile.TemporaryDirectory() as elsewhere:
        stack = _Stack(folder, Path(elsewhere))
        try:
            return _filled(stack, count // 3, say)
        finally:
            stack.run("down")


class _Stack:
    """Commands with the state directory on the small disk, and a spool that is not."""

    def __init__(self, folder: Path, elsewhere: Path) -> None:
        self.folder = folder
        self.spool = elsewhere / "spool"
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self._env |= {"HEADRACE_STATE_DIR": str(folder / ".headrace"), "HEADRACE_DISK_FREE_BYTES_MIN": str(_FREE_MIN)}
        self._cwd = elsewhere

    def run(self, *args: str) -> tuple[int, dict[str, Any]]:
        """Run a command; return its exit code, and the last line of JSON that it printed."""
        argv = [sys.executable, "-P", "-m", "headrace", *args]
        done = subprocess.run(argv, env=self._env, cwd=self._cwd, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return done.returncode, json.loads(lines[-1]) if lines else {}

    def publish(self, prefix: str, count: int) -> tuple[int, dict[str, Any]]:
        """Publish codes through the spool."""
        codes = [f"{prefix}-{number}" for number in range(count)]
        return self.run("publish", "cid", *codes, "--source", "scanner", "--spool", str(self.spool), "--json")


def _filled(stack: _Stack, third: int, say: Callable[[str], None]) -> list[str]:
    wrong: list[str] = []
    code, _ = stack.run("up", "--json")
    if code:
        return [f"`headrace up` ended with {code}"]
    stack.publish("before", third)
    filler = stack.folder / "filler"
    _fill(filler)
    say(f"full: {shutil.disk_usage(stack.folder).free} bytes free")
    code, published = stack.publish("full", third)
    if code or published["acknowledged"] + published["spooled"] != third:
        wrong.append(f"publishing while it is full ended with {code}: {published}")
    time.sleep(_FULL_S)
    code, status = stack.run("status", "--json")
    dead = [process["name"] for process in status["processes"] if process["state"] not in {"ready", "done"}]
    say(f"full: exit {code}, not ready: {', '.join(dead)}")
    if code != 1 or not any(disk["full"] for disk in status["disks"]):
        wrong.append(f"`headrace status` ended with {code} on a full disk")
    filler.unlink()
    began = time.monotonic()
    while (answer := stack.run("status", "--json"))[0] != 0 and time.monotonic() - began < _RECOVERS_S_MAX:
        time.sleep(1.0)
    if answer[0] != 0:
        return [*wrong, f"not every process serves {_RECOVERS_S_MAX:.0f} s after there was room"]
    restarts = {process["name"]: process["restarts"] for process in answer[1]["processes"] if process["restarts"]}
    say(f"room: all serve again after {time.monotonic() - began:.0f} s; restarts: {restarts}")
    stack.publish("after", third)
    return wrong + _missing(stack, 3 * third)


def _missing(stack: _Stack, wanted: int) -> list[str]:
    began = time.monotonic()
    while time.monotonic() - began < _RECOVERS_S_MAX:
        counts = stack.run("ls", "--json", "--kind", "cids")[1].get("counts", {})
        if counts.get("records", {}).get("cid") == wanted:
            return []
        time.sleep(1.0)
    return [f"the catalog has {counts} in place of {wanted} codes"]


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        block = bytes(1024 * 1024)
        try:
            while True:
                file.write(block)
                os.fsync(file.fileno())
        except OSError:
            return


@contextmanager
def _small_disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="headrace-disk-"))
    folder.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MB}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        folder.rmdir()
