"""Real servers for the tests that ask for them: one stack for a whole run, a fresh database for each test."""

import logging
import os
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from headrace.native import StackInfo, temporary_stack
from headrace.runtime.settings import Settings, load_settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.outbox import Outbox
from headrace.store.catalog.queries import Queries
from headrace.store.requests.access import Access
from tests.servers import STACK, fresh_database, in_memory_directory, pool_of, settings_of

VIDEO = Path(__file__).parents[2] / "shared" / "data"
SERVERS = os.environ.get("TEST_SERVERS")
"""A file with the settings of servers that run already, such as in containers; without it the tests start their own."""

# A test of many examples takes as long as the machine is busy: that is no fault of its strategy.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Undo what a test did to logging: nothing may write to the captured output of a test that has ended."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that need servers."""
    if {"stack", "stack_settings"} & set(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.stack)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a folder together, in the order of the folders' first tests: they share what it starts."""
    folders: dict[Path, int] = {}
    for item in items:
        folders.setdefault(item.path.parent, len(folders))
    items.sort(key=lambda item: folders[item.path.parent])


class ByWhatTheyStart(LoadScopeScheduling):
    """Gives one process all tests that share what they start: those of a file, or of the gateway."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "tests/gateway" if file.rpartition("/")[0] == "tests/gateway" else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """Distribute `--dist loadscope` by what tests start."""
    return ByWhatTheyStart(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Run the servers while the tests run, if one needs them; no test's time limit covers their start."""
    if (
        SERVERS
        or session.config.option.collectonly
        or not any(item.get_closest_marker("stack") for item in session.items)
    ):
        return (yield)
    with temporary_stack("minio", state_dir=in_memory_directory(), progress=report) as info:
        session.config.stash[STACK] = info
        return (yield)


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> StackInfo:
    """Kafka, PostgreSQL, Valkey and MinIO, which all tests of a run share."""
    if SERVERS:
        pytest.skip("needs the processes and files of the servers, and TEST_SERVERS names only their addresses")
    assert STACK in pytestconfig.stash, "a test that needs servers lacks the mark `stack`"
    return pytestconfig.stash[STACK]


@pytest.fixture(scope="session")
def stack_settings(request: pytest.FixtureRequest) -> Settings:
    """Settings for the servers, with topics, tables and bucket in place."""
    from headrace.initialize import initialize  # most tests need none of what it loads

    if SERVERS:
        settings = load_settings(_env_file=SERVERS)
    else:
        stack: StackInfo = request.getfixturevalue("stack")
        settings = settings_of(stack, redis_url=stack.valkey_url)
    initialize(settings)
    return settings


@pytest.fixture
def settings(stack_settings: Settings) -> Iterator[Settings]:
    """The stack's settings, with a fresh database for this test."""
    with fresh_database(stack_settings) as changed:
        yield changed


@pytest.fixture(scope="module")
def module_settings(stack_settings: Settings) -> Iterator[Settings]:
    """The stack's settings, with a fresh database for this module."""
    with fresh_database(stack_settings) as changed:
        yield changed


@pytest.fixture
def postgres_dsn(settings: Settings) -> str:
    return settings.postgres_dsn.get_secret_value()


@pytest.fixture
async def catalog(postgres_dsn: str) -> AsyncIterator[Catalog]:
    opened = await Catalog.open(postgres_dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def outbox(postgres_dsn: str) -> AsyncIterator[Outbox]:
    opened = await Outbox.open(postgres_dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def queries(postgres_dsn: str) -> AsyncIterator[Queries]:
    opened = await Queries.open(postgres_dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def access(postgres_dsn: str) -> AsyncIterator[Access]:
    async with pool_of(postgres_dsn) as pool:
        yield Access(pool, postgres_dsn)


@pytest.fixture
def blobs(settings: Settings) -> Blobs:
    return Blobs.from_settings(settings)


@pytest.fixture
def video() -> Path:
    """Real camera video; it is not part of the project, so the test is skipped where it is absent, except in CI."""
    if not VIDEO.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"the test videos are missing: {VIDEO}")
        pytest.skip(f"needs the test videos in {VIDEO}")
    return VIDEO


def report(line: str) -> None:
    """Report what the stack does, on standard error."""
    print(line, file=sys.stderr)
