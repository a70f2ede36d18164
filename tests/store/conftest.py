from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs


@dataclass(frozen=True)
class Minio:
    """A MinIO, its keys, and its bucket."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str


@pytest.fixture(scope="session")
def postgres_admin_dsn(stack_settings: Settings) -> str:
    return stack_settings.postgres_dsn.get_secret_value().rsplit("/", 1)[0] + "/postgres"


@pytest.fixture(scope="session")
def template_dsn(stack_settings: Settings) -> str:
    """A migrated database that each test's own is cloned from."""
    return stack_settings.postgres_dsn.get_secret_value()


@pytest.fixture
def empty_dsn(postgres_admin_dsn: str) -> Iterator[str]:
    yield from _database(postgres_admin_dsn, "template0")


@pytest.fixture
def postgres_dsn(postgres_admin_dsn: str, template_dsn: str) -> Iterator[str]:
    yield from _database(postgres_admin_dsn, template_dsn.rsplit("/", 1)[1])


@pytest.fixture(scope="session")
def minio(stack_settings: Settings) -> Minio:
    keys = (stack_settings.store_access_key, stack_settings.store_secret_key)
    bucket = stack_settings.store_url.removeprefix("s3://")
    return Minio(stack_settings.store_endpoint, *(key.get_secret_value() for key in keys), bucket)


@pytest.fixture
def minio_blobs(minio: Minio) -> Blobs:
    return open_minio(minio)


@pytest.fixture(params=["local", pytest.param("minio", marks=pytest.mark.stack)])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """Every kind of store that the suite can run; a test states what holds for all of them."""
    if request.param == "local":
        return Blobs.open(f"file://{tmp_path}/a%20store")
    return open_minio(request.getfixturevalue("minio"))


def open_minio(minio: Minio, **changed: str) -> Blobs:
    """Open a part of the bucket that no other test has."""
    given = {
        "endpoint": minio.endpoint,
        "region": "us-east-1",
        "access_key": minio.access_key,
        "secret_key": minio.secret_key,
    }
    return Blobs.open(f"s3://{minio.bucket}/{uuid4().hex}", **(given | changed))


@pytest.fixture
async def sql(postgres_dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


def _database(admin_dsn: str, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    _run(admin_dsn, f"create database {name} template {template}")
    yield admin_dsn.rsplit("/", 1)[0] + f"/{name}"
    _run(admin_dsn, f"drop database {name} with (force)")


def _run(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]
