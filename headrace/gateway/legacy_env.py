"""`HOST`, `PORT` and `REDIS_URL`, which the gateway's predecessor read: only the gateway does, for other programs use
these names too.
"""

from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import ENV_FILE, load_settings


class LegacyEnv(BaseSettings):
    """What the environment or `.env` says under the older names."""

    model_config = SettingsConfigDict(env_file=ENV_FILE, extra="ignore")

    host: str | None = None
    port: int | None = Field(None, ge=0, le=65535)
    redis_url: SecretStr | None = None


def overrides() -> dict[str, Any]:
    """Return settings from the older names, where the settings themselves do not say it.

    Raises:
        HeadraceError: PORT is no port, or a setting is wrong.
    """
    try:
        older = LegacyEnv()
    except ValidationError:
        raise HeadraceError(
            "setting_invalid",
            "PORT is not usable: it should be a number from 0 to 65535",
            hint="Correct it, or set HEADRACE_GATEWAY_PORT and unset it.",
            exit_code=Exit.USAGE,
        ) from None
    said = {"gateway_host": older.host, "gateway_port": older.port, "redis_url": older.redis_url}
    known = load_settings().model_fields_set
    return {name: value for name, value in said.items() if value is not None and name not in known}
