import asyncio
import subprocess
from pathlib import Path

import asyncpg
import psycopg
import pytest

from headrace.native.postgres import programs
from headrace.store import migrate as migrate_module
from headrace.store.catalog.queries import Queries
from headrace.store.errors import CatalogNewerError, CatalogOlderError, CatalogRefusedError, CatalogUnavailableError
from headrace.store.migrate import migrate, newest
from tests.processes import free_port

SCHEMA = Path(migrate_module.__file__).parent / "sql" / "schema.sql"


def dump(dsn: str) -> list[str]:
    argv = [programs(None) / "pg_dump", "--schema-only", "--exclude-table=schema_version", dsn]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    # pg_dump marks each of its dumps with a random word of its own.
    return [line for line in text.splitlines() if not line.startswith("\\")]


async def test_the_sum_of_the_migrations_is_the_schema(template_dsn: str, empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(SCHEMA.read_text())
    await connection.close()
    assert dump(template_dsn) == dump(empty_dsn)


async def test_a_database_knows_its_revision(empty_dsn: str) -> None:
    assert await asyncio.to_thread(migrate, empty_dsn) == newest()
    connection = await asyncpg.connect(empty_dsn)
    assert await connection.fetchval("select version_num from schema_version") == newest()
    await connection.close()


def test_migrating_again_changes_nothing(empty_dsn: str) -> None:
    migrate(empty_dsn)
    before = dump(empty_dsn)
    migrate(empty_dsn)
    assert dump(empty_dsn) == before


async def test_two_migrations_at_once_take_turns(empty_dsn: str) -> None:
    revisions = await asyncio.gather(*(asyncio.to_thread(migrate, empty_dsn) for _ in range(4)))
    assert set(revisions) == {newest()}


def test_a_newer_database_is_left_alone_and_the_right_version_named(empty_dsn: str) -> None:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("update schema_version set version_num = '9999'")
    with pytest.raises(CatalogNewerError, match="the database has schema 9999, and this program knows schemas up to"):
        migrate(empty_dsn)


async def test_an_older_database_is_said_to_be_one(empty_dsn: str) -> None:
    queries = await Queries.open(empty_dsn)
    try:
        with pytest.raises(CatalogOlderError, match="older than this program") as caught:
            await queries.counts()
    finally:
        await queries.close()
    assert caught.value.hint.startswith("run `headrace init`")


def test_an_absent_database_is_unavailable_and_named_without_its_password() -> None:
    with pytest.raises(CatalogUnavailableError) as raised:
        migrate(f"postgresql://someone:canary-password@127.0.0.1:{free_port()}/headrace")
    assert "127.0.0.1" in str(raised.value)
    assert "canary-password" not in str(raised.value)


async def test_a_failing_step_leaves_nothing_behind(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute("create table outbox (already integer)")
    with pytest.raises(CatalogRefusedError, match="outbox"):
        await asyncio.to_thread(migrate, empty_dsn)
    tables = await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'")
    await connection.close()
    assert tables == 1


@pytest.mark.parametrize("dsn", ["postgresql://u:canary@host:notaport/x", "u:canary@host"])
def test_an_address_that_cannot_be_read_is_refused(dsn: str) -> None:
    with pytest.raises(CatalogRefusedError) as raised:
        migrate(dsn)
    assert "canary" not in str(raised.value)
