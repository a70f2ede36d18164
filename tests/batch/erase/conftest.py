"""A store, a database and a key of a test's own."""

from uuid import uuid4

import pytest
from pydantic import SecretStr

from headrace.runtime.settings import Settings
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
