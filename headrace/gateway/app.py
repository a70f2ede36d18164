"""The composition root of the gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from headrace.gateway.middleware import Middleware
from headrace.gateway.openapi import describe
from headrace.gateway.problems import on_problem
from headrace.gateway.routes import ROUTERS
from headrace.gateway.server import BACKLOG, bind, server_for
from headrace.gateway.services import opened
from headrace.gateway.tus import responses
from headrace.gateway.tus.janitor import sweep
from headrace.gateway.uploads.scanning import Scanner
from headrace.runtime.background_task import background_task
from headrace.runtime.errors import HeadraceError, unreachable
from headrace.runtime.kafka import require_topics, wait_for_kafka
from headrace.runtime.logs import Action, get_log
from headrace.runtime.probes import Probes
from headrace.runtime.settings import Settings
from headrace.runtime.wait_for_service import wait_for
from headrace.schemas.events import Kind
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.streams.worker.liveness import ask_kafka, liveness

_REDIS_S_MAX = 2.0


def create_app(settings: Settings, probes: Probes, stopping: asyncio.Event | None = None) -> Any:
    """Return the ASGI application; its lifespan opens what it works with, and streams end once `stopping` is set."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            opened(settings, probes.readyz, stopping) as services,
            background_task(sweep(services)),
        ):
            app.state.services = services
            yield

    app = FastAPIOffline(
        title="Headrace",
        version="1",
        description="What cameras and devices hand over is stored once, catalogued, and announced once.",
        lifespan=lifespan,
        redoc_url=None,
    )
    for router in ROUTERS:
        app.include_router(router)
    for error in (HTTPException, RequestValidationError, RejectedError, HeadraceError):
        app.add_exception_handler(error, on_problem)
    describe(app)
    origins = [one.strip() for one in settings.gateway_cors_origins.split(",") if one.strip()]
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["ETag", "Location", "Retry-After", "X-Request-ID", *responses.EXPOSED],
        )
    return Middleware(app, settings)


async def serve(settings: Settings, stop: asyncio.Event) -> int:
    """Serve until `stop` is set; returns the exit code.

    Raises:
        HeadraceError: a service is away or refuses, or a port is taken.
    """
    ports = [settings.gateway_port, *([settings.gateway_ldo_port] if settings.gateway_ldo_port else [])]
    sockets = [bind(settings.gateway_host, port) for port in ports]
    admin = await wait_for_kafka(settings, stop=stop)
    await asyncio.to_thread(require_topics, settings, admin, [input_topic(kind).name for kind in Kind])
    catalog = await wait_for("postgres", lambda: _catalog(settings), wait_s_max=settings.start_wait_s_max, stop=stop)
    blobs = Blobs.from_settings(settings)
    await wait_for("store", blobs.check, wait_s_max=settings.start_wait_s_max, stop=stop)
    asked = {"kafka": lambda: ask_kafka(settings, admin), "postgres": catalog.check, "store": blobs.check}
    if settings.redis_url.get_secret_value():
        redis = Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=_REDIS_S_MAX)
        asked["redis"] = lambda: _ask_redis(redis)
    for one in sockets:
        one.listen(BACKLOG)  # before /readyz says so: who connects now is answered in a moment
    if settings.gateway_clamd:
        asked["clamd"] = Scanner(settings.gateway_clamd).check
    try:
        async with liveness(
            settings, waiting=lambda: False, progress=lambda: None, doing=lambda: "serving", probes=asked
        ) as probes:
            server = server_for(create_app(settings, probes, stop), settings)
            serving = asyncio.create_task(server.serve(sockets))
            get_log().info(
                Action.STARTED, address=[f"{settings.gateway_host}:{one.getsockname()[1]}" for one in sockets]
            )
            await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await serving
    finally:
        await catalog.close()
    return 0


async def _catalog(settings: Settings) -> Catalog:
    catalog = await Catalog.open(
        settings.postgres_dsn.get_secret_value(), connections_max=2, application="headrace gateway probe"
    )
    await catalog.check()
    return catalog


async def _ask_redis(redis: "Redis") -> None:
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        raise unreachable("redis", "", type(error).__name__, "check HEADRACE_REDIS_URL") from None
