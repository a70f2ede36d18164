"""A line that events go through, and the catalog by hand, in the database and the bucket of a test's `settings`."""

import os
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest

from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from tests.batch.batch_samples import Line


@pytest.fixture(autouse=True, scope="session")
def shared_trust_store() -> Iterator[None]:
    """Load the certificate authorities once: each context that loads them takes as long as a whole test."""
    contexts: dict[str, ssl.SSLContext] = {}
    create = ssl.create_default_context

    def created(*args: Any, **options: Any) -> ssl.SSLContext:
        key = repr((args, options, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")))
        return contexts.setdefault(key, contexts.get(key) or create(*args, **options))

    with patch("ssl.create_default_context", created):
        yield


@pytest.fixture
def line(settings: Settings, blobs: Blobs, catalog: Catalog) -> Line:
    return Line(settings, blobs, catalog)


@pytest.fixture
async def sql(postgres_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()
