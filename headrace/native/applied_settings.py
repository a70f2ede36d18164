"""The settings with which a stack's processes were started, compared with those that hold now."""

import hashlib
import json
from contextlib import suppress

from pydantic import SecretStr

from headrace.native.layout import StateDir, write_private
from headrace.runtime.setting_names import variable
from headrace.runtime.settings import Settings

# The stack sets these itself, or no process of it reads them.
_PASSED_OVER = frozenset({"state_dir", "minio_binary", "log_format", "health_port", "health_host", "kafka_bootstrap"})


def write_applied(state: StateDir, settings: Settings) -> None:
    """Note the settings that the processes are started with; a secret as its digest."""
    write_private(state.applied, json.dumps(_values(settings), indent=1).encode())


def differing(state: StateDir, settings: Settings) -> list[str]:
    """Return a line for each setting that the running processes have another value of."""
    with suppress(OSError, ValueError):
        applied: dict[str, str] = json.loads(state.applied.read_bytes())
        now = _values(settings)
        names = [name for name in sorted({*applied, *now}) if applied.get(name) != now.get(name)]
        return [_line(name, applied.get(name), now.get(name)) for name in names]
    return []


def _values(settings: Settings) -> dict[str, str]:
    """Return what is set, without the defaults."""
    values = {name: getattr(settings, name) for name in sorted(settings.model_fields_set - _PASSED_OVER)}
    return {name: _digest(value) if isinstance(value, SecretStr) else str(value) for name, value in values.items()}


def _digest(secret: SecretStr) -> str:
    return "sha256:" + hashlib.sha256(secret.get_secret_value().encode()).hexdigest()


def _line(name: str, applied: str | None, now: str | None) -> str:
    if any(value and value.startswith("sha256:") for value in (applied, now)):
        return f"{variable(name)} is another one than the running processes have"
    shown = [repr(value) if value is not None else "its default" for value in (now, applied)]
    return f"{variable(name)} is {shown[0]}, and the running processes have {shown[1]}"
