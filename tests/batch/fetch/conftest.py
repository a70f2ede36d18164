"""A watch on the addresses that a test connects to."""

from collections.abc import Iterator

import pytest

from tests.batch.fetch.packets import watched


@pytest.fixture
def connected() -> Iterator[list[str]]:
    """Every address that a socket is connected to; whatever would leave this machine fails the test."""
    with watched() as watch:
        yield watch.connected
