"""Sinks, and a service that they send to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.ldo_sink import LdoSink, from_env
from headrace.ldo_sink import request as requests
from tests.ldo_sink.ldo_service import Server


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come soon."""
    monkeypatch.setattr(requests, "DELAY_S", 0.02)
    monkeypatch.setattr(requests, "DELAY_S_MAX", 0.2)


@pytest.fixture
def server() -> Iterator[Server]:
    opened = Server()
    yield opened
    opened.close()


@pytest.fixture
def sink_of(tmp_path: Path) -> Iterator[Callable[..., LdoSink]]:
    """Sinks as an environment turns them on, closed when the test is over."""
    opened: list[LdoSink] = []

    def make(url: str, **given: str) -> LdoSink:
        opened.append(
            from_env(
                {
                    "USE_DATA_INGESTION": "true",
                    "DATA_INGESTION_URL": url,
                    "DATA_INGESTION_SPOOL": str(tmp_path / "spool"),
                    **given,
                }
            )
        )
        return opened[-1]

    yield make
    for sink in opened:
        sink.close(2.0)
