"""The outbox of a test's database, and who hears what is announced of it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from headrace.runtime.settings import Settings
from headrace.store.catalog.outbox import Outbox
from tests.streams.relay.relay_samples import CLIPS, LDOS, LETTERS, AnnouncementReader


@pytest.fixture
async def outbox(postgres_dsn: str) -> AsyncIterator[Outbox]:
    opened = await Outbox.open(postgres_dsn)
    yield opened
    await opened.close()


@pytest.fixture
def announced(settings: Settings) -> Iterator[AnnouncementReader]:
    reader = AnnouncementReader(settings, [LDOS, CLIPS, LETTERS])
    yield reader
    reader.close()
