"""The secrets of docker-compose.yml: files, which each process has for itself, with a login and a key of its own."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from headrace.gateway.auth.api_keys import parse
from headrace.runtime.settings import Settings
from headrace.store.logins import PASSWORD_SETTINGS, login_of, passwords_of
from tests.infra.compose.composition import FILE, OURS, ROOT, SERVICES, TEXT, environment, made_up, mounted, settings_of

POLICIES = {path.stem for path in (ROOT / "infra/minio/policies").iterdir()}


def test_every_secret_is_a_file_and_none_has_a_default() -> None:
    secret = re.compile(r"PASSWORD|SECRET_KEY|_SECRET$|ADMIN_KEY|ROOT_USER")
    for name in SERVICES:
        for variable, value in environment(name).items():
            assert not secret.search(variable) or value.startswith("/run/secrets/"), f"{name}: {variable}"
    assert "${" not in TEXT
    assert FILE["secrets"] == {name: {"file": f"./.secrets/{name}"} for name in FILE["secrets"]}
    assert {source for name in SERVICES for source in mounted(name).values()} == set(FILE["secrets"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_names_the_files_that_it_mounts(name: str) -> None:
    if name in OURS:
        assert {file.removeprefix("headrace_") for file in mounted(name)} <= set(Settings.model_fields)
        return
    text = str([environment(name), SERVICES[name].get("command")])
    assert set(re.findall(r"/run/secrets/(\w+)", text)) == (set() if name == "store-users" else set(mounted(name)))


# The policy of each process in the store, and its role in PostgreSQL; consumers have none.
RIGHTS = {
    "worker-small": ("worker", "headrace_worker"),
    "worker-large": ("worker", "headrace_worker"),
    "relay": ("relay", "headrace_relay"),
    "preprocessing": ("preprocessing", None),
    "perception": ("perception", None),
    "gateway": ("gateway", "headrace_gateway"),
    "capture": ("capture", "headrace_capture"),
    "maintenance": ("operator", "headrace_operator"),
}
OWN = {
    "gateway": {"gateway_token_secret", "gateway_seal_secret", "gateway_receipt_secret", "redis_password"},
    "capture": {"gateway_seal_secret"},
}


@pytest.mark.parametrize("name", RIGHTS)
def test_a_process_has_its_own_login_and_key_and_no_other(name: str) -> None:
    policy, role = RIGHTS[name]
    files = {"headrace_store_secret_key": f"store_{policy}_secret_key"}
    if role is not None:
        files["headrace_postgres_password"] = PASSWORD_SETTINGS[role]
    assert mounted(name) == files | {f"headrace_{secret}": secret for secret in OWN.get(name, ())}
    settings, database = settings_of(name), environment("postgres")["POSTGRES_DB"]
    assert settings.store_access_key.get_secret_value() == f"headrace-{policy}"
    dsn = urlsplit(settings.postgres_dsn.get_secret_value())
    if role is None:
        assert (dsn.username, dsn.password) == (None, None)
    else:
        assert (dsn.username, dsn.password) == (login_of(database, role), made_up(PASSWORD_SETTINGS[role]))


def test_init_alone_is_the_owner_and_makes_the_logins() -> None:
    settings = settings_of("init")
    dsn = urlsplit(settings.postgres_dsn.get_secret_value())
    assert (dsn.username, dsn.password) == (
        environment("postgres")["POSTGRES_USER"],
        made_up("postgres_owner_password"),
    )
    assert set(RIGHTS) == set(OURS) - {"init"}
    roles = {role for _, role in RIGHTS.values() if role}
    assert passwords_of(settings) == {role: made_up(PASSWORD_SETTINGS[role]) for role in roles}
    assert settings.store_access_key.get_secret_value() == "headrace-init"
    assert mounted("init")["headrace_store_secret_key"] == "store_init_secret_key"
    assert "--roles" in SERVICES["init"]["command"]


def test_only_who_makes_the_stores_users_has_its_root() -> None:
    root = {"minio_root_user", "minio_root_password"}
    having = {name for name in SERVICES if root & set(mounted(name).values())}
    assert having == {"minio", "store-users"}
    assert set(mounted("store-users")) == root | {f"store_{policy}_secret_key" for policy in POLICIES}
    assert {policy for policy, _ in RIGHTS.values()} | {"init"} == POLICIES
    assert environment("store-users")["STORE_ENDPOINT"] == environment("init")["HEADRACE_STORE_ENDPOINT"]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    (tmp_path / "infra/compose").mkdir(parents=True)
    for file in ("docker-compose.yml", "infra/compose/secrets"):
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def make_secrets(folder: Path) -> dict[str, str]:
    subprocess.run(["infra/compose/secrets"], cwd=folder, check=True, capture_output=True, timeout=20)
    return {path.name: path.read_text().removesuffix("\n") for path in (folder / ".secrets").iterdir()}


def test_make_secrets_gives_every_secret_a_value_once(copied: Path) -> None:
    made = make_secrets(copied)
    assert set(made) == set(FILE["secrets"])
    assert all(re.fullmatch(r"(hr_admin_)?[0-9a-f]{40}", value) for value in made.values())
    assert len(set(made.values())) == len(made)
    (copied / ".secrets/redis_password").write_text("mine\n")
    assert make_secrets(copied) == made | {"redis_password": "mine"}
    assert parse(made["gateway_admin_key"]) is not None
    # The containers' users read the files through a mount; on the machine, the directory keeps others out.
    assert (copied / ".secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (copied / ".secrets").iterdir()} == {0o644}


def test_make_secrets_keeps_those_of_an_earlier_version(copied: Path) -> None:
    (copied / ".env").write_text(
        "POSTGRES_PASSWORD=owner\nSTORE_ACCESS_KEY=root\nSTORE_SECRET_KEY=key\nGATEWAY_ADMIN_SECRET=admin\n"
        "GATEWAY_SEAL_SECRET=seal\nOTHER=1\n"
    )
    made = make_secrets(copied)
    kept = {name: value for name, value in made.items() if len(value) < 40}
    assert kept == {
        "postgres_owner_password": "owner",
        "minio_root_user": "root",
        "minio_root_password": "key",
        "gateway_admin_key": "hr_admin_admin",
        "gateway_seal_secret": "seal",
    }
