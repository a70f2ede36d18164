"""Settings as files: named like the variables, below the environment, and never quoted in an error."""

import os
from pathlib import Path

import pytest

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings, load_settings

CANARY = "canary-of-a-file-that-is-long-enough-for-all"


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory of secrets that the environment names, and no other setting of this machine's."""
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    monkeypatch.setenv("HEADRACE_SECRETS_DIR", str(secrets))
    return secrets


def wrong() -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        load_settings()
    assert (caught.value.code, caught.value.exit_code) == ("setting_invalid", Exit.USAGE)
    assert caught.value.__cause__ is None
    assert CANARY not in str(caught.value)
    assert "\n" not in caught.value.what
    return caught.value


@pytest.mark.parametrize("name", ["headrace_kafka_password", "HEADRACE_KAFKA_PASSWORD"])
def test_a_file_is_named_like_the_variable_in_either_case(directory: Path, name: str) -> None:
    (directory / name).write_text(f"{CANARY}\n")
    assert load_settings().kafka_password.get_secret_value() == CANARY


def test_every_setting_can_be_a_file(directory: Path) -> None:
    (directory / "headrace_health_port").write_text("9123")
    (directory / "headrace_log_format").write_text("json\n")
    settings = load_settings()
    assert (settings.health_port, settings.log_format) == (9123, "json")


def test_dotenv_and_then_the_environment_win(directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("health_port", "kafka_username", "postgres_user"):
        (directory / f"headrace_{name}").write_text("1")
    (tmp_path / ".env").write_text("HEADRACE_HEALTH_PORT=2\nHEADRACE_KAFKA_USERNAME=2\n")
    monkeypatch.setenv("HEADRACE_HEALTH_PORT", "3")
    settings = load_settings()
    assert (settings.health_port, settings.kafka_username, settings.postgres_user) == (3, "2", "1")


def test_the_last_of_several_directories_wins(directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (directory / "headrace_kafka_username").write_text("shared")
    (directory / "headrace_health_port").write_text("9123")
    (own / "headrace_kafka_username").write_text("own")
    monkeypatch.setenv("HEADRACE_SECRETS_DIR", f"{directory}:{own}")
    settings = load_settings()
    assert (settings.kafka_username, settings.health_port) == ("own", 9123)


def test_dotenv_may_name_the_directory(directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEADRACE_SECRETS_DIR")
    (directory / "headrace_kafka_username").write_text("me")
    (tmp_path / ".env").write_text(f"HEADRACE_SECRETS_DIR={directory}\n")
    assert load_settings().kafka_username == "me"


def test_links_within_the_directory_are_followed_as_kubernetes_makes_them(directory: Path) -> None:
    (directory / "..2026").mkdir()
    (directory / "..2026/headrace_kafka_username").write_text("me")
    (directory / "..data").symlink_to("..2026")
    (directory / "headrace_kafka_username").symlink_to("..data/headrace_kafka_username")
    assert load_settings().kafka_username == "me"


def test_a_missing_directory_is_named(directory: Path) -> None:
    directory.rmdir()
    assert wrong().what == (
        f"HEADRACE_SECRETS_DIR is not usable: the directory {directory} cannot be read: No such file or directory"
    )


def test_what_is_no_directory_is_named(directory: Path) -> None:
    directory.rmdir()
    directory.write_text(CANARY)
    assert f"the directory {directory} cannot be read: Not a directory" in wrong().what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_an_unreadable_directory_is_named(directory: Path) -> None:
    directory.chmod(0)
    assert f"the directory {directory} cannot be read: Permission denied" in wrong().what
    directory.chmod(0o700)


def test_an_unreadable_file_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = directory / "headrace_kafka_password"
    file.write_text(CANARY)

    def refuse(self: Path, encoding: str) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    assert f"the file {file} cannot be read: Permission denied" in wrong().what


def test_a_file_that_is_not_text_is_refused(directory: Path) -> None:
    (directory / "headrace_kafka_password").write_bytes(CANARY.encode() + b"\xff")
    assert "not text in UTF-8" in wrong().what


def test_a_link_to_outside_and_a_directory_are_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(CANARY)
    link = directory / "headrace_kafka_password"
    link.symlink_to(tmp_path / "elsewhere")
    assert str(link) in wrong().what
    link.unlink()
    link.mkdir()
    assert str(link) in wrong().what


def test_a_wrong_value_names_the_setting_and_not_the_value(directory: Path) -> None:
    (directory / "headrace_gateway_token_secret").write_text("canary")
    error = wrong()
    assert error.what.startswith("HEADRACE_GATEWAY_TOKEN_SECRET is not usable")
    assert "canary" not in str(error)


def test_a_file_that_is_no_setting_is_refused_with_the_nearest(directory: Path) -> None:
    (directory / "headrace_kafka_pasword").write_text(CANARY)
    error = wrong()
    assert error.what == "there is no setting HEADRACE_KAFKA_PASWORD"
    assert f"It is set in {directory}. Did you mean HEADRACE_KAFKA_PASSWORD" in error.hint


def test_files_of_others_are_left_alone(directory: Path) -> None:
    (directory / "client.key").write_text(CANARY)
    changed = load_settings().model_dump(exclude={"secrets_dir"})
    assert changed == Settings(_env_file=None).model_dump(exclude={"secrets_dir"})


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://db:5432/headrace?sslmode=require", "postgresql://me:p%40%2Fw@db:5432/headrace?sslmode=require"),
        ("postgresql://you@db1:5432,db2:5432/headrace", "postgresql://you:p%40%2Fw@db1:5432,db2:5432/headrace"),
        ("postgresql://you:theirs@db/headrace", "postgresql://you:theirs@db/headrace"),
        ("postgresql:///headrace?host=/run/postgresql", "postgresql://me:p%40%2Fw@/headrace?host=/run/postgresql"),
    ],
)
def test_the_login_of_postgresql_may_stand_beside_its_address(directory: Path, dsn: str, expected: str) -> None:
    (directory / "headrace_postgres_password").write_text("p@/w")
    settings = load_settings(postgres_user="me", postgres_dsn=dsn)
    assert settings.postgres_dsn.get_secret_value() == expected
    # What is read again is not changed again.
    again = load_settings(postgres_user="me", postgres_dsn=expected)
    assert again.postgres_dsn == settings.postgres_dsn


def test_the_default_address_gets_the_password_too(directory: Path) -> None:
    (directory / "headrace_postgres_password").write_text("pw")
    assert load_settings().postgres_dsn.get_secret_value() == "postgresql://headrace:pw@127.0.0.1:5432/headrace"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", ""),
        ("rediss://cache:6379/0?ssl_ca_certs=/ca.pem", "rediss://:p%40w@cache:6379/0?ssl_ca_certs=/ca.pem"),
        ("redis://me@cache/0", "redis://me:p%40w@cache/0"),
        ("redis://:theirs@cache/0", "redis://:theirs@cache/0"),
    ],
)
def test_the_password_of_redis_may_stand_beside_its_address(directory: Path, url: str, expected: str) -> None:
    (directory / "headrace_redis_password").write_text("p@w")
    assert load_settings(redis_url=url).redis_url.get_secret_value() == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kafka_cert_file": "CERT"}, "HEADRACE_KAFKA_CERT_FILE and HEADRACE_KAFKA_KEY_FILE"),
        ({"kafka_security": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER"}, "HEADRACE_KAFKA_OAUTH_TOKEN_URL"),
        (
            {"kafka_ca_file": "/nowhere.pem"},
            "HEADRACE_KAFKA_CA_FILE is not usable: the file /nowhere.pem cannot be read",
        ),
        (
            {"store_ca_file": "/nowhere.pem"},
            "HEADRACE_STORE_CA_FILE is not usable: the file /nowhere.pem cannot be read",
        ),
        ({"kafka_oauth_token_url": "ftp://x"}, "HEADRACE_KAFKA_OAUTH_TOKEN_URL is not usable"),
    ],
)
def test_what_a_connection_lacks_is_named(tmp_path: Path, changes: dict[str, str], named: str) -> None:
    (tmp_path / "cert.pem").write_text("x")
    given = {name: value.replace("CERT", str(tmp_path / "cert.pem")) for name, value in changes.items()}
    with pytest.raises(HeadraceError) as caught:
        load_settings(**given)
    assert named in caught.value.what
