"""Servers of the composition take their secrets from the files that it mounts; tried with the programs themselves."""

import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from redis import Redis
from redis.exceptions import RedisError

from headrace.native.minio import binary_at_hand
from headrace.native.valkey import find_valkey
from headrace.store.blobs.bucket import ensure_bucket
from headrace.store.blobs.store_url import StoreAccess
from tests.processes import ends_with_this_process, free_port
from tests.waiting import until

ROOT = Path(__file__).parents[3]
COMPOSITION = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))

pytestmark = pytest.mark.server


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Files as `make secrets` writes them."""
    for name in COMPOSITION["secrets"]:
        (tmp_path / name).write_text(f"value-of-{name}\n")
    return tmp_path


@contextmanager
def running(argv: list[str], folder: Path, **environment: str) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ends_with_this_process(argv), env=os.environ | environment, cwd=folder, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_valkey_asks_for_the_password_of_the_file(secrets: Path) -> None:
    port = free_port()
    (secrets / "bin").mkdir()
    (secrets / "bin/valkey-server").symlink_to(find_valkey())
    (secrets / "data").mkdir()
    (secrets / "valkey.conf").write_text(f"port {port}\n{COMPOSITION['configs']['valkey']['content']}")
    *shell, script = COMPOSITION["services"]["redis"]["command"]
    for named, path in (("/run/secrets", secrets), ("/etc/valkey.conf", secrets / "valkey.conf"), ("/data", "data")):
        script = script.replace(named, str(path))
    with running([*shell, script], secrets, PATH=f"{secrets / 'bin'}:{os.environ['PATH']}"):
        client = Redis(port=port, password="value-of-redis_password")
        until(lambda: answers(client), 20, "Valkey to serve")
        assert not answers(Redis(port=port))
        assert (secrets / "data/valkey.conf").stat().st_mode & 0o777 == 0o600


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False
    finally:
        client.close()


async def test_minio_takes_its_root_from_the_files(secrets: Path) -> None:
    minio = binary_at_hand()
    if minio is None:
        pytest.skip("there is no MinIO on this machine")
    port = free_port()
    given = COMPOSITION["services"]["minio"]["environment"]
    environment = {name: value.replace("/run/secrets", str(secrets)) for name, value in given.items() if "ROOT" in name}
    assert set(environment) == {"MINIO_ROOT_USER_FILE", "MINIO_ROOT_PASSWORD_FILE"}
    argv = [str(minio), "server", "--quiet", "--address", f"127.0.0.1:{port}", str(secrets / "data")]
    access = StoreAccess(
        f"http://127.0.0.1:{port}", "us-east-1", "value-of-minio_root_user", "value-of-minio_root_password"
    )
    with running(argv, secrets, **environment):
        until(lambda: listens(port), 30, "MinIO to serve")
        assert await ensure_bucket("s3://headrace", access, staging_days=8.0)


def listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/minio/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
