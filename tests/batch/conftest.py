"""A line that events go through, and the catalog by hand, in the database and the bucket of a test's `settings`."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from tests.batch.batch_samples import Line


@pytest.fixture
def line(settings: Settings, blobs: Blobs, catalog: Catalog) -> Line:
    return Line(settings, blobs, catalog)


@pytest.fixture
async def sql(postgres_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()
