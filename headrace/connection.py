"""How a command finds the service: what the environment says, or else the stack that runs in the state directory."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.runtime.settings import Settings

# Whoever sets one of these speaks of a service of their own.
_ADDRESSES = ("HEADRACE_KAFKA_BOOTSTRAP", "HEADRACE_POSTGRES_DSN", "HEADRACE_STORE_URL")


def client_settings() -> "Settings":
    """Return the settings for a command that talks to the service.

    Raises:
        HeadraceError: a setting is wrong.
    """
    from headrace.runtime.settings import load_settings

    settings = load_settings()
    if any(name in os.environ for name in _ADDRESSES) or settings.model_fields_set & {
        name.removeprefix("HEADRACE_").lower() for name in _ADDRESSES
    }:
        return settings
    try:
        from headrace.native import status
    except ModuleNotFoundError:
        return settings  # without the extra `native` no stack runs on this machine

    info = status(settings.state_dir).info
    if info is None:
        return settings
    prefix = len("HEADRACE_")
    found = {name[prefix:].lower(): value for name, value in info.env().items()}
    if "archive_url" in settings.model_fields_set:
        del found["archive_url"]  # the one place of a stack that may as well be elsewhere
    return load_settings(**found)
