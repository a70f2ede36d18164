"""Settings: what is wrong is named with what is allowed, and no secret is ever shown."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from runtime.errors import Exit, HeadraceError
from runtime.settings import LogFormat, Settings, load_settings

CANARY = "canary-of-the-settings"
SECRETS = [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of this machine's, and a directory without .env."""
    import os

    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def wrong() -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        load_settings()
    error = caught.value
    assert (error.code, error.exit_code) == ("setting_invalid", Exit.USAGE)
    assert error.__cause__ is None
    return error


def test_the_defaults_are_valid() -> None:
    assert load_settings() == Settings(_env_file=None)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("BATCH_FRAMES_MAX", "0", "greater than or equal to 1"),
        ("BATCH_FRAMES_MAX", "501", "less than or equal to 500"),
        ("BATCH_FRAMES_MAX", "many", "valid integer"),
        ("RETRY_DELAY_S", "nan", "less than or equal to 60"),
        ("PROCESSING_DEADLINE_S", "-1", "greater than 0"),
        ("KAFKA_SECURITY", "SASL", "'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
        ("LOG_FORMAT", "xml", "'json' or 'console'"),
        ("LOG_LEVEL", "verbose", "'debug', 'info', 'warning' or 'error'"),
        ("HEALTH_PORT", "70000", "less than or equal to 65535"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(f"HEADRACE_{name}", value)
    error = wrong()
    assert error.what.startswith(f"HEADRACE_{name} is not usable: ")
    assert allowed in error.what
    description = Settings.model_fields[name.lower()].description
    assert description is not None
    assert description in error.hint


def test_there_are_secrets_to_be_kept() -> None:
    assert set(SECRETS) >= {"kafka_password", "postgres_dsn", "store_access_key", "store_secret_key"}


def test_no_secret_is_shown_where_settings_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", CANARY)
    settings = load_settings()
    assert all(getattr(settings, name).get_secret_value() == CANARY for name in SECRETS)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.model_dump()}"):
        assert CANARY not in shown


def test_no_secret_is_shown_where_another_setting_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", CANARY)
    monkeypatch.setenv("HEADRACE_HEALTH_PORT", "http")
    assert CANARY not in str(wrong())


def test_a_line_of_dotenv_counts_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HEADRACE_LOG_FORMAT=json\nHEADRACE_LOG_LEVEL=error\nSOMEBODY_ELSES=1\n")
    monkeypatch.setenv("HEADRACE_LOG_LEVEL", "warning")
    settings = load_settings()
    assert settings.log_format is LogFormat.JSON
    assert settings.log_level == "warning"


def test_a_wrong_line_of_dotenv_is_named_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HEADRACE_LOG_LEVEL=loud\n")
    assert "HEADRACE_LOG_LEVEL" in str(wrong())


def test_what_is_passed_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HEALTH_PORT", "1")
    assert load_settings(health_port=2).health_port == 2


def test_settings_do_not_change() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.health_port = 1


def test_the_state_directory_is_absolute(tmp_path: Path) -> None:
    assert load_settings(state_dir="state").state_dir == tmp_path / "state"


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description and field.description.endswith(".") for field in Settings.model_fields.values())
