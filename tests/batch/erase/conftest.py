"""A store, a database and a key of a test's own."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pydantic import SecretStr

from headrace.runtime.settings import Settings
from headrace.store.catalog.outbox import Outbox
from tests.servers import own_store


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A part of the bucket, and a database, that no other test has; a key for reports; and no grace for orphans."""
    return own_store(settings).model_copy(
        update={
            "archive_url": f"{settings.store_url}/{uuid4().hex}",
            "gateway_receipt_secret": SecretStr(uuid4().hex),
            "collect_grace_hours": 0.0,
        }
    )


@pytest.fixture
async def outbox(postgres_dsn: str) -> AsyncIterator[Outbox]:
    opened = await Outbox.open(postgres_dsn, may_be_older=True)
    yield opened
    await opened.close()
