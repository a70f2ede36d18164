"""Settings: what is wrong is named with what is allowed, and no secret is ever shown."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.setting_names import NOT_SETTINGS
from headrace.runtime.settings import LogFormat, Settings, load_settings

CANARY = "canary-password-that-is-long-enough-for-all"
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
        ("PROCESSING_DEADLINE_S", "151", "less than or equal to 150"),
        ("KAFKA_SESSION_S", "5.9", "greater than or equal to 6"),
        ("KAFKA_SESSION_S", "301", "less than or equal to 300"),
        ("STORE_URL", "ftp://somewhere", "s3://bucket, gs://bucket, az://container or file:///directory"),
        ("STORE_URL", "s3://", "s3://bucket, gs://bucket, az://container or file:///directory"),
        ("STORE_URL", "file://directory", "s3://bucket, gs://bucket, az://container or file:///directory"),
        ("STORE_URL", "headrace", "s3://bucket, gs://bucket, az://container or file:///directory"),
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
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", f"{CANARY}-of-{name}")
    settings = load_settings()
    assert all(getattr(settings, name).get_secret_value() == f"{CANARY}-of-{name}" for name in SECRETS)
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


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("HEADRACE_WATCHDOG", "HEADRACE_WATCHDOG_S"),
        ("HEADRACE_KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_KAFKA_BOOTSTRAP"),
        ("headrace_log_levle", "HEADRACE_LOG_LEVEL"),
    ],
)
@pytest.mark.parametrize("where", ["environment", ".env"])
def test_a_name_that_is_no_setting_is_refused_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, near: str, where: str
) -> None:
    if where == ".env":
        (tmp_path / ".env").write_text(f"{name}={CANARY}\n")
    else:
        monkeypatch.setenv(name, CANARY)
    error = wrong()
    assert error.what == f"there is no setting {name.upper()}"
    assert near in error.hint
    assert where in error.hint
    assert CANARY not in str(error)


def test_a_name_that_is_like_none_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_XYZZY", "1")
    assert "docs/settings.md" in wrong().hint


def test_what_a_supervisor_or_a_test_sets_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NOT_SETTINGS | {"HEADRACEX", "SOMEBODY_ELSES"}:
        monkeypatch.setenv(name, "1")
    assert load_settings() == Settings(_env_file=None)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("PROCESSING_DEADLINE_S", "WATCHDOG_S"),
        ("POSTGRES_STATEMENT_S_MAX", "PROCESSING_DEADLINE_S"),
        ("KAFKA_SESSION_S", "WATCHDOG_S"),
    ],
)
def test_what_must_end_first_must_be_shorter(monkeypatch: pytest.MonkeyPatch, smaller: str, larger: str) -> None:
    monkeypatch.setenv(f"HEADRACE_{smaller}", "60")
    monkeypatch.setenv(f"HEADRACE_{larger}", "60")
    assert wrong().what == f"HEADRACE_{smaller} (60 s) should be less than HEADRACE_{larger} (60 s)"


@pytest.mark.parametrize(
    "url", ["s3://b", "s3://b/prefix", "gs://b", "az://c", "file:///var/blobs", "file:///my%20blobs"]
)
def test_a_store_may_be_any_of_four_kinds(url: str) -> None:
    assert load_settings(store_url=url).store_url == url
