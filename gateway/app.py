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

from gateway.edge import Edge
from gateway.openapi import describe
from gateway.problems import on_problem
from gateway.routes import ROUTERS
from gateway.server import BACKLOG, bind, server_for
from gateway.services import opened
from gateway.uploads import tus_answers
from gateway.uploads.scanning import Scanner
from gateway.uploads.tus_sweeping import sweep
from runtime.beside import beside
from runtime.errors import HeadraceError, unreachable
from runtime.kafka import require_topics, wait_for_kafka
from runtime.logs import Action, get_log
from runtime.probes import Probes
from runtime.settings import Settings
from runtime.waiting import wait_for
from schemas.events import Kind
from schemas.reject import Rejected
from schemas.topics import input_topic
from store.blobs import Blobs
from store.catalog import Catalog
from streams.watched import ask_kafka, watched

_REDIS_S_MAX = 2.0


def create_app(settings: Settings, probes: Probes, stopping: asyncio.Event | None = None) -> Any:
    """Return the ASGI application; its lifespan opens what it works with, and streams end once `stopping` is set."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            opened(settings, probes.readyz, stopping) as services,
            beside(sweep(services)),
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
    for error in (HTTPException, RequestValidationError, Rejected, HeadraceError):
        app.add_exception_handler(error, on_problem)
    describe(app)
    origins = [one.strip() for one in settings.gateway_cors_origins.split(",") if one.strip()]
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["ETag", "Location", "Retry-After", "X-Request-ID", *tus_answers.EXPOSED],
        )
    return Edge(app, settings)


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
        async with watched(
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
