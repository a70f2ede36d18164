"""The settings of a client: what is set, or else the addresses of the stack in the state directory."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from headrace.runtime.setting_names import PREFIX, variable
from headrace.runtime.settings import Settings, load_settings

CLIENT_FILE = "client.json"
"""Its file in the state directory: the variables that connect a client to the stack, readable by its owner only."""

# If any of these is set, a client talks to the service at that address and not to the local stack.
_ADDRESSES = frozenset({"kafka_bootstrap", "postgres_dsn", "store_url"})


def client_settings() -> Settings:
    """Return the settings for a command or program that talks to the service.

    Addresses come from the environment, `.env` and files of secrets; if none is set there, from the stack in the state
    directory, `.headrace` where HEADRACE_STATE_DIR names no other.

    Raises:
        HeadraceError: a setting is invalid.
    """
    settings = load_settings()
    if settings.model_fields_set & _ADDRESSES or any(variable(name) in os.environ for name in _ADDRESSES):
        return settings
    variables = stack_variables(settings.state_dir)
    return settings if variables is None else settings_of_stack(variables)


def settings_of_stack(variables: Mapping[str, str]) -> Settings:
    """Return the settings with the addresses of a stack; an archive that is set stays, since it may be elsewhere."""
    overrides = {name.removeprefix(PREFIX).lower(): value for name, value in variables.items()}
    if "archive_url" in load_settings().model_fields_set:
        overrides.pop("archive_url", None)
    return load_settings(**overrides)


def stack_variables(state_dir: Path) -> dict[str, str] | None:
    """Return the HEADRACE_* variables of the stack that was last started there, with its secrets; None without one."""
    with suppress(OSError, ValueError):
        content = json.loads((state_dir / CLIENT_FILE).read_bytes())
        if isinstance(content, dict):
            return {str(name): str(value) for name, value in content.items()}
    return None
