"""The service's processes, started as a deployment starts them."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace.native import run_with_parent
from headrace.runtime.settings import Settings
from tests.waiting import until

READY_S_MAX = 60.0


def ends_with_this_process(argv: Sequence[object], *, account: str = "-") -> list[str]:
    """Return the arguments that start a program which is killed when this process ends, however it ends.

    `account` is the `uid:gid` to run as. Start it from a thread that lives as long as the process: the kernel ties it
    to that thread (Linux only).
    """
    killed = str(int(signal.SIGKILL))
    wrapper = [sys.executable, "-I", "-S", run_with_parent.__file__, killed, str(os.getpid()), account]
    return [*wrapper, *map(str, argv)]


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings as the environment of a process."""
    values = {}
    for name in settings.model_fields_set | {"postgres_dsn"}:
        value = getattr(settings, name)
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        values[f"HEADRACE_{name.upper()}"] = text
    return values


class ServiceProcess:
    """One of the service's processes, started as a deployment would start it.

    `changes` are settings, `environment` are other variables.
    """

    def __init__(
        self,
        settings: Settings,
        *args: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
        **changes: object,
    ) -> None:
        self.port = free_port()
        self.log = log
        self._args = args
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            **environment_of(settings),
            **{f"HEADRACE_{name.upper()}": str(value) for name, value in changes.items()},
            "HEADRACE_HEALTH_PORT": str(self.port),
            "HEADRACE_LOG_FORMAT": "json",
            **(environment or {}),
        }
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as out:
            return subprocess.Popen(
                ends_with_this_process([sys.executable, "-m", "headrace", *self._args]),
                env=self._env,
                stdout=out,
                stderr=out,
                cwd=tempfile.gettempdir(),
                start_new_session=True,
            )

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait_ready(self, probe: str = "/readyz") -> "ServiceProcess":
        until(lambda: self.is_alive() and self.get(probe)[0] == 200, READY_S_MAX, f"{self._args} to be ready")
        return self

    def is_alive(self) -> bool:
        if (code := self.process.poll()) is not None:
            raise AssertionError(f"{self._args} ended with {code}:\n{self.log.read_text()[-4000:]}")
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """Start it after it has ended, without waiting until it is ready."""
        self.process = self._start()

    def restart(self) -> "ServiceProcess":
        self.start_again()
        return self.wait_ready()

    def stop(self, seconds: float = 25.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
