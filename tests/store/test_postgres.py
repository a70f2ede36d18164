import logging

import pytest

from headrace.store.errors import CatalogUnavailableError
from headrace.store.postgres import open_pool
from tests.processes import free_port


async def test_a_pool_tells_nobody_with_a_traceback_that_postgresql_is_away() -> None:
    pool = logging.getLogger("asyncpg.pool")
    pool.setLevel(logging.NOTSET)
    with pytest.raises(CatalogUnavailableError, match="connection refused"):
        await open_pool(
            f"postgresql://127.0.0.1:{free_port()}/x", connections_max=1, statement_s_max=1, application="a test"
        )
    assert not pool.isEnabledFor(logging.ERROR)
