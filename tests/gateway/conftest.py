"""A stack with the whole service, and gateways in front of it, for the tests of this folder."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from headrace.native import StackInfo, temporary_stack
from headrace.native.service import SERVICES
from headrace.runtime.settings import Settings
from tests.conftest import settings_of
from tests.gateway.canary import CANARY, ProcessWatch, logs_with, tables_with, topics_with
from tests.gateway.gateway_world import Gateway

StartGateway = Callable[..., Gateway]


@pytest.fixture(scope="session")
def service_stack() -> Iterator[StackInfo]:
    """Servers, workers, relay and consumers of their own: they must not take what other tests publish."""
    services = tuple(one for one in SERVICES if one.name not in {"gateway", "capture"})
    with temporary_stack("minio", services=services, progress=lambda line: print(line, file=sys.stderr)) as info:
        yield info


@pytest.fixture(scope="session")
def service_settings(service_stack: StackInfo) -> Settings:
    return settings_of(service_stack, redis_url=service_stack.valkey_url, gateway_token_secret="t" * 40)


@pytest.fixture(scope="session")
def gateway(
    service_stack: StackInfo, service_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose limits no test reaches by accident.

    When all tests are over, a password that some of them put into addresses, headers and metadata must be nowhere.
    """
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with Gateway(service_settings, log, gateway_ingest_per_minute=100_000, gateway_answer_s_max=60) as started:
        with ProcessWatch(every_s=0.5) as watch:
            yield started
        assert watch.seen == set()
        assert tables_with(started) == []
        assert topics_with(service_settings) == []
        assert logs_with([tmp_path_factory.getbasetemp(), service_stack.state_dir]) == []
        assert CANARY not in httpx.get(f"{started.url}/metrics").text


@pytest.fixture
def start_gateway(service_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """Start a further gateway with settings of its own."""
    with ExitStack() as started:

        def start(**changes: object) -> Gateway:
            log = tmp_path_factory.mktemp("gateway") / "gateway.log"
            # They share one Redis: the default of five files a minute would be used up by another test.
            return started.enter_context(
                Gateway(service_settings, log, **({"gateway_ingest_per_minute": 1000} | changes))
            )

        yield start
