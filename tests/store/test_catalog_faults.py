"""A catalog that is cut off, locked, absent or without its schema, and values that it refuses."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from headrace.schemas.catalog_rows import RowBatch
from headrace.store.catalog.catalog import Catalog
from headrace.store.errors import CatalogRefusedError, CatalogUnavailableError
from tests.processes import free_port
from tests.store.store_rows import batch, record

Sql = Any  # asyncpg's connection, which is generic in its stubs only


def cut_at(point: str, dsn: str) -> Callable[[str], None]:
    """End every connection to the database but our own as soon as a commit reaches a point."""

    def cut(reached: str) -> None:
        if reached == point:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
                    "where pid <> pg_backend_pid() and datname = current_database()"
                )

    return cut


@pytest.mark.parametrize("point", ["tx_began", "after_records", "before_commit"])
async def test_a_connection_that_is_cut_is_unavailable_and_the_next_commit_finds_another(
    catalog: Catalog, postgres_dsn: str, point: str
) -> None:
    with pytest.raises(CatalogUnavailableError) as raised:
        await catalog.commit(batch([1, 2]), reached=cut_at(point, postgres_dsn))
    assert "127.0.0.1" in str(raised.value)
    assert len((await catalog.commit(batch([1, 2]))).new_records) == 2


async def test_a_schema_that_is_not_as_expected_is_refused(catalog: Catalog, sql: Sql) -> None:
    await sql.execute("alter table sightings rename to sightings_elsewhere")
    with pytest.raises(CatalogRefusedError, match="sightings"):
        await catalog.commit(batch([2]))


async def test_a_lock_held_too_long_is_unavailable_and_leaves_no_transaction(postgres_dsn: str, sql: Sql) -> None:
    impatient = await Catalog.open(postgres_dsn, statement_s_max=0.2)
    try:
        async with sql.transaction():
            await sql.execute("lock table records in access exclusive mode")
            with pytest.raises(CatalogUnavailableError, match="57014"):
                await impatient.commit(batch([1]))
        assert len((await impatient.commit(batch([1]))).new_records) == 1
    finally:
        await impatient.close()


async def test_a_character_that_postgresql_cannot_keep_is_refused_with_its_state(catalog: Catalog, sql: Sql) -> None:
    bad = RowBatch(blobs=[], records=[record(1, about="a\0b")], sightings=[], dead_letters=[])
    with pytest.raises(CatalogRefusedError) as raised:
        await catalog.commit(bad)
    assert raised.value.sqlstate == "22P05"
    assert await sql.fetchval("select count(*) from records") == 0


async def test_an_absent_postgresql_is_unavailable_and_its_password_is_not_said() -> None:
    with pytest.raises(CatalogUnavailableError) as raised:
        await Catalog.open(f"postgresql://someone:canary-password@127.0.0.1:{free_port()}/headrace")
    assert "canary-password" not in f"{raised.value!s} {raised.value!r} {raised.value.__cause__!r}"


async def test_a_database_without_the_schema_is_not_ready(empty_dsn: str) -> None:
    opened = await Catalog.open(empty_dsn)
    with pytest.raises(CatalogRefusedError, match="outbox"):
        await opened.check()
    await opened.close()


async def test_a_migrated_database_is_ready(catalog: Catalog) -> None:
    await catalog.check()


async def test_a_value_of_the_wrong_type_is_refused_without_being_quoted(catalog: Catalog) -> None:
    with pytest.raises(CatalogRefusedError) as raised:
        await catalog.look_up(["canary"])  # type: ignore[list-item]
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("dsn", ["postgresql://u:canary@host:notaport/x", "mysql://u:canary@host/x"])
async def test_an_address_that_cannot_be_read_is_refused(dsn: str) -> None:
    with pytest.raises(CatalogRefusedError) as raised:
        await Catalog.open(dsn)
    assert "canary" not in str(raised.value)
