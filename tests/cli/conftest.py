import os
import sys
from pathlib import Path

import pytest

from headrace.cli.app import main
from tests.cli.command_runs import CANARY, Command, Ended
from tests.processes import free_port


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Command:
    """Run a command in this process, as `headrace …` would, in a directory of its own."""
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADRACE_START_WAIT_S_MAX", "0")
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["headrace", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfdbinary.readouterr()
        text = err.decode()
        assert "Traceback" not in text
        assert CANARY not in text + out.decode(errors="replace")
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, out, text)

    return run


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The addresses of services that are away, with secrets that must not be shown."""
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("kafka", "postgres", "store")}
    monkeypatch.setenv("HEADRACE_KAFKA_BOOTSTRAP", addresses["kafka"])
    monkeypatch.setenv("HEADRACE_POSTGRES_DSN", f"postgresql://me:{CANARY}@{addresses['postgres']}/headrace")
    monkeypatch.setenv("HEADRACE_STORE_ENDPOINT", f"http://{addresses['store']}")
    monkeypatch.setenv("HEADRACE_STORE_ACCESS_KEY", CANARY)
    monkeypatch.setenv("HEADRACE_STORE_SECRET_KEY", CANARY)
    return addresses
