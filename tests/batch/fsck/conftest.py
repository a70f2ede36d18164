"""A store and a database of a test's own."""

from uuid import uuid4

import pytest

from headrace.runtime.settings import Settings


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A part of the bucket, and a database, that no other test has; and no grace, since nothing here is old."""
    return settings.model_copy(
        update={
            "store_url": f"{settings.store_url}/{uuid4().hex}",
            "archive_url": "",
            "collect_grace_hours": 0.0,
            "staging_retention_days": 0.0,
        }
    )
