"""The whole service, and gateways in front of it, for the tests of this folder."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from headrace.native.config import ServiceSpec
from headrace.native.service import SERVICES as ALL_SERVICES
from headrace.runtime.settings import Settings
from tests.consumer_groups import skip_backlog
from tests.gateway.canary import CANARY, ProcessWatch, logs_with, tables_with, topics_with
from tests.gateway.gateway_world import Gateway, StartGateway, secret_of
from tests.processes import ServiceProcess
from tests.servers import STACK, fresh_database

SERVICES = tuple(service for service in ALL_SERVICES if service.name not in {"gateway", "capture", "maintenance"})


@pytest.fixture(scope="package")
def service_settings(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The settings of a whole service that runs: workers, relay and consumers, with a database of its own.

    It ends with the tests of this folder, because it would take what others publish.
    """
    own = {f"gateway_{name}_secret": SecretStr(secret_of(name)) for name in ("token", "seal", "receipt")}
    logs = tmp_path_factory.mktemp("service")
    with fresh_database(stack_settings.model_copy(update=own)) as settings:
        skip_backlog(settings)
        with running(settings, SERVICES, logs):
            yield settings


@contextmanager
def running(settings: Settings, services: Sequence[ServiceSpec], logs: Path) -> Iterator[None]:
    """Run processes of the service; each has to end well."""
    processes: dict[str, ServiceProcess] = {}
    try:
        for service in services:
            processes[service.name] = ServiceProcess(settings, *service.args, log=logs / f"{service.name}.log")
        for process in processes.values():
            process.wait_ready()
        yield
        for process in processes.values():
            process.process.terminate()
        assert {name: process.stop() for name, process in processes.items()} == dict.fromkeys(processes, 0)
    finally:
        for process in processes.values():
            process.kill()


@pytest.fixture(scope="package")
def gateway(
    pytestconfig: pytest.Config, service_settings: Settings, tmp_path_factory: pytest.TempPathFactory
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
        servers = [pytestconfig.stash[STACK].state_dir] if STACK in pytestconfig.stash else []
        assert logs_with([tmp_path_factory.getbasetemp(), *servers]) == []
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
