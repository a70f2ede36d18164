"""A reader of what is announced."""

from collections.abc import Iterator

import pytest

from headrace.runtime.settings import Settings
from tests.streams.relay.relay_samples import CLIPS, LDOS, LETTERS, AnnouncementReader


@pytest.fixture
def announced(settings: Settings) -> Iterator[AnnouncementReader]:
    reader = AnnouncementReader(settings, [LDOS, CLIPS, LETTERS])
    yield reader
    reader.close()
