"""A site and a centre for each test."""

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from headrace.runtime.settings import Settings
from tests.servers import fresh_database, own_store
from tests.streams.transfer.transfer_rig import Centre, Site, site_and_centre


@pytest.fixture
def at_centre(settings: Settings) -> Settings:
    # A process that a test kills leaves the group soon: the next test's member waits for that.
    return own_store(settings).model_copy(update={"kafka_session_s": 6.0})


@pytest.fixture
def at_site(stack_settings: Settings) -> Iterator[Settings]:
    with fresh_database(stack_settings) as changed:
        yield own_store(changed)


@pytest.fixture
async def places(at_site: Settings, at_centre: Settings) -> AsyncIterator[tuple[Site, Centre]]:
    async with site_and_centre(at_site, at_centre) as opened:
        yield opened


@pytest.fixture
async def rows(at_centre: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(at_centre.postgres_dsn.get_secret_value())
    yield connection
    await connection.close()
