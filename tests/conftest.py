"""Real servers for every test that asks for them: one native stack for the whole run, a fresh database a test."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import structlog

from headrace.initialize import initialize
from headrace.native import StackInfo, temporary_stack
from headrace.runtime.settings import Settings, load_settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.queries import Queries
from headrace.store.postgres import opened_pool
from headrace.store.requests.access import Access

VIDEO = Path(__file__).parents[2] / "shared" / "data"
READY_S_MAX = 60.0
TEMPLATE = "headrace"  # the stack's own database, migrated once and never written to


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Undo what a test did to the logs: they must not go on into the captured output of a test that has ended."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def stack() -> Iterator[StackInfo]:
    """Kafka, PostgreSQL, Valkey and MinIO; where one cannot be had the test fails, and says what is missing."""
    with temporary_stack("minio", progress=lambda line: print(line, file=sys.stderr)) as info:
        yield info


@pytest.fixture(scope="session")
def stack_settings(stack: StackInfo) -> Settings:
    """Settings for the stack, with topics, tables and bucket in place."""
    settings = settings_of(stack)
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
async def queries(postgres_dsn: str) -> AsyncIterator[Queries]:
    opened = await Queries.open(postgres_dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def access(postgres_dsn: str) -> AsyncIterator[Access]:
    async with opened_pool(postgres_dsn, connections_max=1, statement_s_max=10.0, application="test") as pool:
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


def settings_of(stack: StackInfo, **changes: object) -> Settings:
    prefix = len("HEADRACE_")
    return load_settings(
        _env_file=None, **{name[prefix:].lower(): value for name, value in stack.env().items()}, **changes
    )


@contextmanager
def fresh_database(settings: Settings) -> Iterator[Settings]:
    """Clone the migrated template, and drop the clone afterwards."""
    template = settings.postgres_dsn.get_secret_value()
    name = f"test_{uuid4().hex[:12]}"
    server = template.rsplit("/", 1)[0]
    _sql(f"{server}/postgres", f'create database "{name}" template "{TEMPLATE}"')
    try:
        yield settings.model_copy(update={"postgres_dsn": type(settings.postgres_dsn)(f"{server}/{name}")})
    finally:
        _sql(f"{server}/postgres", f'drop database "{name}" with (force)')


def _sql(dsn: str, text: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(text)
        finally:
            await connection.close()

    asyncio.run(execute())


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings as the environment of a process."""
    values = {}
    for name in settings.model_fields_set | {"postgres_dsn"}:
        value = getattr(settings, name)
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        values[f"HEADRACE_{name.upper()}"] = text
    return values


class ServiceProcess:
    """One of the service's processes, started as a deployment would start it."""

    def __init__(self, settings: Settings, *args: str, log: Path, **changes: object) -> None:
        self.port = free_port()
        self.log = log
        self._args = args
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            **environment_of(settings),
            **{f"HEADRACE_{name.upper()}": str(value) for name, value in changes.items()},
            "HEADRACE_HEALTH_PORT": str(self.port),
            "HEADRACE_LOG_FORMAT": "json",
        }
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "headrace", *self._args],
                env=self._env,
                stdout=out,
                stderr=out,
                cwd=tempfile.gettempdir(),
                start_new_session=True,
            )

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait_ready(self, probe: str = "/readyz") -> "ServiceProcess":
        until(lambda: self.is_alive() and self.get(probe)[0] == 200, READY_S_MAX, f"{self._args} to be ready")
        return self

    def is_alive(self) -> bool:
        if (code := self.process.poll()) is not None:
            raise AssertionError(f"{self._args} ended with {code}:\n{self.log.read_text()[-4000:]}")
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> "ServiceProcess":
        self.process = self._start()
        return self.wait_ready()

    def stop(self, seconds: float = 25.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something to become true; the time is generous, because a machine may be busy."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


async def until_async(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        await asyncio.sleep(0.1)
