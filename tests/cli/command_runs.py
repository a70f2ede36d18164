"""How the tests of the command line run `headrace`, and what a run returns."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CANARY = "canary-of-the-commands"
ENDS_S_MAX = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


Command = Callable[..., Ended]


def process(*args: str, env: dict[str, str] | None = None, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "headrace", *args],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}, **(env or {})},
        capture_output=True,
        text=True,
        timeout=ENDS_S_MAX,
        check=False,
        **options,
    )
