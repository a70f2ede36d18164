"""Who the import is: the names are those that its predecessor read, with those of the second generation."""

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import ENV_FILE


class Credentials(BaseSettings):
    """Logins from the environment or `.env`.

    The annotation API's defaults are those that it is delivered with; they open nothing that was not left open.
    """

    model_config = SettingsConfigDict(env_file=ENV_FILE, extra="ignore", frozen=True)

    login: str = Field("", validation_alias=AliasChoices("PLATFORM_LOGIN", "ALERT_API_LOGIN"))
    password: SecretStr = Field(SecretStr(""), validation_alias=AliasChoices("PLATFORM_PASSWORD", "ALERT_API_PASSWORD"))
    admin_login: str = Field("", validation_alias=AliasChoices("PLATFORM_ADMIN_LOGIN", "ALERT_API_ADMIN_LOGIN"))
    admin_password: SecretStr = Field(
        SecretStr(""), validation_alias=AliasChoices("PLATFORM_ADMIN_PASSWORD", "ALERT_API_ADMIN_PASSWORD")
    )
    annotation_login: str = Field("admin", validation_alias=AliasChoices("MAIN_ANNOTATION_LOGIN", "ANNOTATOR_LOGIN"))
    annotation_password: SecretStr = Field(
        SecretStr("admin12345"), validation_alias=AliasChoices("MAIN_ANNOTATION_PASSWORD", "ANNOTATOR_PASSWORD")
    )


def load_credentials(*, platform_needed: bool) -> Credentials:
    """Read the logins.

    Raises:
        HeadraceError: one of the platform's is missing although the platform is needed; it names which.
    """
    found = Credentials()
    given = {
        "PLATFORM_LOGIN": found.login,
        "PLATFORM_PASSWORD": found.password.get_secret_value(),
        "PLATFORM_ADMIN_LOGIN": found.admin_login,
        "PLATFORM_ADMIN_PASSWORD": found.admin_password.get_secret_value(),
    }
    missing = [name for name, value in given.items() if not value]
    if platform_needed and missing:
        raise HeadraceError(
            "platform_credentials_missing",
            f"Missing platform credentials: {', '.join(missing)}",
            hint="set them in the environment or in .env",
            exit_code=Exit.USAGE,
        )
    return found
