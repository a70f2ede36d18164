"""A stack with the whole service, and gateways in front of it, for the tests of this folder."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from gateway_world import Gateway

from infra.native import StackInfo, temporary_stack
from infra.native.service import SERVICES
from runtime.settings import Settings
from tests.conftest import settings_of

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
def gateway(service_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose limits no test reaches by accident."""
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with Gateway(service_settings, log, gateway_ingest_per_minute=100_000, gateway_answer_s_max=60) as started:
        yield started


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
