"""A store and a database of a test's own."""

import pytest

from headrace.runtime.settings import Settings
from tests.servers import own_store


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A part of the bucket, and a database, that no other test has; and no grace, since nothing here is old."""
    return own_store(settings).model_copy(
        update={
            "archive_url": "",
            "collect_grace_hours": 0.0,
            "staging_retention_days": 0.0,
        }
    )
