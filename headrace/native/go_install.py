"""Builds a program with `go install` once and keeps the binary."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.native.layout import cache_home, locked

_PROGRESS_EVERY_S = 5.0
_BUILD_S_MAX = 1800.0


class BuildError(Exception):
    """Go could not build the program; the text is Go's last output."""


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A program: its Go package, its exact version, and the name of the binary."""

    name: str
    package: str
    version: str

    @property
    def built(self) -> Path:
        """The path of the binary once it has been built."""
        return cache_home() / f"{self.name}-{self.version}" / self.name


def go_install(program: GoProgram, go: str, progress: Callable[[str], None]) -> Path:
    """Build the program if that has not been done; may be repeated, also by several processes at once.

    Raises BuildError.
    """
    built = program.built
    with locked(built.parent / "install.lock"):
        if not built.is_file():
            _build(program, go, progress)
    return built


def _build(program: GoProgram, go: str, progress: Callable[[str], None]) -> None:
    started, built = time.monotonic(), program.built
    directory = Path(tempfile.mkdtemp(prefix="build-", dir=built.parent))
    try:
        with (directory / "output").open("w+b") as output:
            build = subprocess.Popen(
                [go, "install", f"{program.package}@{program.version}"],
                env={**os.environ, "GOBIN": str(directory), "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                _watch(build, program.name, started, progress)
            finally:
                if build.poll() is None:
                    build.kill()
                    build.wait()
        if build.returncode != 0:
            raise BuildError(_last_line((directory / "output").read_text(errors="replace")))
        # Go names the binary after the last part of its package's path.
        (directory / program.package.rsplit("/", 1)[-1]).replace(built)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    progress(f"{program.name}: built in {time.monotonic() - started:.0f} s")


def _watch(build: "subprocess.Popen[bytes]", name: str, started: float, progress: Callable[[str], None]) -> None:
    while time.monotonic() - started < _BUILD_S_MAX:
        try:
            build.wait(_PROGRESS_EVERY_S)
        except subprocess.TimeoutExpired:
            progress(f"{name}: building, {time.monotonic() - started:.0f} s so far")
        else:
            return


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("go: downloading")]
    return lines[-1][:300] if lines else "it took too long"
