"""A running gateway, and what callers send to it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import cv2
import httpx
import numpy as np
import psutil
import psycopg

from headrace.gateway.auth import api_keys
from headrace.gateway.auth.principal import Role
from headrace.runtime.settings import Settings
from headrace.schemas.limits import MIB
from headrace.store.requests.access import Access
from tests.processes import ServiceProcess, free_port
from tests.servers import pool_of
from tests.waiting import until

T = TypeVar("T")


class Gateway:
    """A gateway's process, keys for it, and a look into its catalog."""

    def __init__(self, settings: Settings, log: Path, *, ready: bool = True, **changes: object) -> None:
        """`ready` is False where something that it needs is away."""
        self.settings = settings
        self._probe = "/readyz" if ready else "/livez"
        self.log = log
        self.http_port = free_port()
        self.process = ServiceProcess(settings, "gateway", log=log, gateway_port=self.http_port, **changes)
        self.url = f"http://127.0.0.1:{self.http_port}"

    def __enter__(self) -> Self:
        try:
            self.process.wait_ready(self._probe)
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "_catalog" in self.__dict__:
            self._catalog.close()
        code = self.process.stop()
        if kind is None:
            assert code == 0

    def key(self, role: str = "device", sources: Iterable[str] = ("*",), days: float | None = None) -> str:
        """A new key."""
        grant = api_keys.Grant("test", Role(role), [*sources], days)
        return self.with_access(lambda access: api_keys.add(access, grant, actor="test")).text

    def with_access(self, work: Callable[[Access], Awaitable[T]]) -> T:
        return asyncio.run(self._with_access(work))

    async def _with_access(self, work: Callable[[Access], Awaitable[T]]) -> T:
        dsn = self.settings.postgres_dsn.get_secret_value()
        async with pool_of(dsn) as pool:
            return await work(Access(pool, dsn))

    def client(self, role: str = "device", sources: Iterable[str] = ("*",), **options: Any) -> httpx.Client:
        """A client that shows a new key."""
        headers = {"X-API-Key": self.key(role, sources), **options.pop("headers", {})}
        return httpx.Client(base_url=self.url, headers=headers, timeout=90, **options)

    def anonymous(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=90)

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """What the catalog holds."""
        return self._catalog.execute(sql, values).fetchall()

    @cached_property
    def _catalog(self) -> "psycopg.Connection[tuple[Any, ...]]":
        return psycopg.connect(self.settings.postgres_dsn.get_secret_value(), autocommit=True)


StartGateway = Callable[..., Gateway]
"""Starts a further gateway with settings of its own."""


@contextmanager
def unharmed_by(gateway: Gateway) -> Iterator[None]:
    """Afterwards the process lives, a good request works, and the memory is back."""
    process = psutil.Process(gateway.process.process.pid)
    before = process.memory_info().rss
    yield
    with gateway.client() as client:
        answer = client.post("/ingest", files={"file": picture()})
        assert answer.status_code == 200, answer.text
    until(lambda: process.memory_info().rss - before < 50 * MIB, 30, "the memory to be back")


def picture(width: int = 64, height: int = 48, form: str = ".jpg") -> bytes:
    """An image that no other test has."""
    image = np.random.default_rng().integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(form, image)[1].tobytes()


def name(prefix: str) -> str:
    """A source's name that no other test has."""
    return f"{prefix}-{uuid4().hex[:8]}"


def secret_of(purpose: str) -> str:
    """A secret of the gateways of the tests, which is the same for all of them."""
    return sha256(purpose.encode()).hexdigest()
