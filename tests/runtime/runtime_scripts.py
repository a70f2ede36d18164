"""Small processes, to see how one ends: in a test they could only be imagined."""

import subprocess
import sys
import textwrap
from dataclasses import dataclass

ENDS_S_MAX = 30.0


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it said."""

    code: int
    out: str
    err: str


def start(script: str, *args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(process: "subprocess.Popen[str]") -> Ended:
    try:
        out, err = process.communicate(timeout=ENDS_S_MAX)
    finally:
        process.kill()
        process.wait()
    return Ended(process.returncode, out, err)


def run(script: str, *args: str) -> Ended:
    return wait(start(script, *args))
