"""What runs again and again reads no large table as a whole: PostgreSQL's own counters say so."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from headrace.runtime.settings import Settings
from headrace.store import postgres
from headrace.store.catalog import dead_letters, expiry
from tests.servers import fresh_database
from tests.store.linear_steps import STEPS, Step, prepare, tables_scanned
from tests.store.many_rows import fill

ROWS = 20_000
STEP_ROWS = 200  # of deletions; a real step would delete half of these tables

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def dsn(stack_settings: Settings) -> Iterator[str]:
    with fresh_database(stack_settings) as settings:
        dsn = settings.postgres_dsn.get_secret_value()
        asyncio.run(_fill(dsn))
        yield dsn


async def _fill(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await fill(connection, ROWS)
    await prepare(connection, ROWS)
    await connection.close()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
async def test_no_step_reads_a_large_table_as_a_whole(dsn: str, step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "DELETE_ROWS_MAX", STEP_ROWS)
    monkeypatch.setattr(expiry, "DELETE_ROWS_MAX", STEP_ROWS)
    monkeypatch.setattr(dead_letters, "EXPIRED_MAX", STEP_ROWS)
    connection = await asyncpg.connect(dsn)
    try:
        assert await tables_scanned(connection, dsn, ROWS, step) == {}
    finally:
        await connection.close()
