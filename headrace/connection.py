"""How a command finds the service: what the environment says, or else the stack that runs in the state directory."""

import os

from headrace.runtime.settings import Settings, load_settings

# Whoever sets one of these speaks of a service of their own.
_ADDRESSES = ("HEADRACE_KAFKA_BOOTSTRAP", "HEADRACE_POSTGRES_DSN", "HEADRACE_STORE_URL")


def client_settings() -> Settings:
    """Return the settings for a command that talks to the service.

    Raises:
        HeadraceError: a setting is wrong.
    """
    settings = load_settings()
    if any(name in os.environ for name in _ADDRESSES) or settings.model_fields_set & {
        name.removeprefix("HEADRACE_").lower() for name in _ADDRESSES
    }:
        return settings
    from headrace.native import status

    info = status(settings.state_dir).info
    if info is None:
        return settings
    prefix = len("HEADRACE_")
    found = {name[prefix:].lower(): value for name, value in info.env().items()}
    if "archive_url" in settings.model_fields_set:
        del found["archive_url"]  # the one place of a stack that may as well be elsewhere
    return load_settings(**found)
