"""The composition root of the gateway: the application, its components, and the process that serves it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from socket import socket
from typing import TYPE_CHECKING, Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from headrace.gateway.auth.audit_log import AuditLog
from headrace.gateway.auth.guard import Guard
from headrace.gateway.auth.rate_limiter import RateLimits, RequestLimiter
from headrace.gateway.auth.tokens import TokenVerifier
from headrace.gateway.capture.request_topic import CaptureRequestPublisher
from headrace.gateway.live.connection_limits import LiveConnections
from headrace.gateway.middleware import MethodMiddleware, Middleware, allowed_methods
from headrace.gateway.problems import ProblemBody, on_problem
from headrace.gateway.queries.cache import Cache
from headrace.gateway.routes import ROUTERS
from headrace.gateway.server import BACKLOG, bind, server_for
from headrace.gateway.tus import responses
from headrace.gateway.tus.sweeper import Sweeper
from headrace.gateway.uploads.inspection import Inspector
from headrace.gateway.uploads.memory import UploadMemory
from headrace.gateway.uploads.pipeline import UploadPipeline, UploadReceiver
from headrace.gateway.uploads.publish import UploadPublisher
from headrace.gateway.uploads.results import IngestResults, IngestWait
from headrace.gateway.uploads.scanning import Scanner
from headrace.producers.publisher import Publisher
from headrace.producers.source import SequenceCounter, unix_us
from headrace.runtime.acl import Operation
from headrace.runtime.addresses import site_networks
from headrace.runtime.background_task import background_task
from headrace.runtime.errors import HeadraceError, unreachable
from headrace.runtime.health import Probes
from headrace.runtime.kafka import require_topics, wait_for_kafka
from headrace.runtime.liveness import ask_kafka, liveness
from headrace.runtime.logs import Action, get_log
from headrace.runtime.receipt_key import ReceiptKey
from headrace.runtime.settings import Settings
from headrace.runtime.wait_for_service import wait_for
from headrace.schemas.events import Kind
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.dead_letters import DeadLetters
from headrace.store.catalog.ldos import Ldos
from headrace.store.catalog.queries import Queries
from headrace.store.catalog.sessions import listen
from headrace.store.installation import require_installation
from headrace.store.postgres import close_pool, open_pool
from headrace.store.requests.access import Access
from headrace.store.requests.cameras import Cameras
from headrace.store.requests.ingest_requests import IngestRequests
from headrace.store.requests.ingest_status import IngestStatuses
from headrace.store.requests.uploads import Uploads

if TYPE_CHECKING:
    from headrace.store.postgres import Pool

ServiceProbe: TypeAlias = Callable[[], Awaitable[object]]

_REDIS_S_MAX = 2.0
_UNTRUSTED_REDIS = "its certificate is not valid for ssl_ca_certs in HEADRACE_REDIS_URL"
_EXPOSED = (
    *("Allow", "ETag", "Idempotent-Replayed", "Location", "RateLimit", "RateLimit-Policy", "Retry-After"),
    "X-Request-ID",
)
_SCHEMES = {
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key made by `headrace keys add`.",
    },
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token."},
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "The API key as the password, for clients that only accept a URL: `http://headrace:KEY@host`.",
    },
}


def create_app(settings: Settings, probes: Probes, stopping: asyncio.Event | None = None) -> Any:
    """Return the ASGI application; its lifespan opens the components, and live streams end once `stopping` is set."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            components = await _open_components(settings, stack, stopping or asyncio.Event())
            app.state.components = {type(component): component for component in (probes, *components)}
            yield

    app = FastAPIOffline(
        title="Headrace",
        version="1",
        description="Stores frames, clips, scans and LDOs once, catalogues them, and announces them once.",
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect names the Host that the client sent
    )
    for router in ROUTERS:
        app.include_router(router)
    for error in (HTTPException, RequestValidationError, RejectedError, HeadraceError):
        app.add_exception_handler(error, on_problem)
    _describe(app)
    routes = [*app.routes, *(route for router in ROUTERS for route in router.routes)]
    app.add_exception_handler(405, partial(_on_method_not_allowed, routes))
    app.add_middleware(MethodMiddleware, routes=routes)
    gateway = Middleware(app, settings)
    origins = [origin.strip() for origin in settings.gateway_cors_origins.split(",") if origin.strip()]
    if not origins:
        return gateway
    # Outside of everything: a page may read refusals too.
    return CORSMiddleware(
        gateway,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=[*_EXPOSED, *responses.EXPOSED],
    )


async def _on_method_not_allowed(routes: Sequence[BaseRoute], request: Request, error: Exception) -> JSONResponse:
    answer = await on_problem(request, error)
    # The router has only the methods of the first route with this path.
    answer.headers["Allow"] = ", ".join(sorted(allowed_methods(routes, request.scope)))
    return answer


def _describe(app: FastAPI) -> None:
    """Add the security schemes and the body of problems to the OpenAPI document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = document.setdefault("components", {})
            components.setdefault("schemas", {})["ProblemBody"] = ProblemBody.model_json_schema()
            upload = document["paths"]["/api/v1/ingest/upload"]["post"]["requestBody"]["content"]["multipart/form-data"]
            components["schemas"]["UploadIngestionRequest"] = upload["schema"]
            upload["schema"] = {"$ref": "#/components/schemas/UploadIngestionRequest"}
            components["securitySchemes"] = _SCHEMES
            document["security"] = [{name: []} for name in _SCHEMES]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


async def serve(settings: Settings, stop: asyncio.Event) -> int:
    """Serve until `stop` is set; returns the exit code.

    Raises:
        HeadraceError: a service is unavailable, or an address is in use.
    """
    ports = [settings.gateway_port, *([settings.gateway_ldo_port] if settings.gateway_ldo_port else [])]
    with ExitStack() as bound:
        sockets = [bound.enter_context(bind(settings.gateway_host, port)) for port in ports]
        return await _serve(settings, sockets, stop)


async def _serve(settings: Settings, sockets: list[socket], stop: asyncio.Event) -> int:
    admin = await wait_for_kafka(settings, stop=stop)
    needed = {input_topic(kind).name: Operation.WRITE for kind in Kind}
    await asyncio.to_thread(require_topics, settings, admin, needed)
    catalog = await wait_for("postgres", lambda: _catalog(settings), wait_s_max=settings.start_wait_s_max, stop=stop)
    blobs = Blobs.from_settings(settings)
    await wait_for("store", blobs.check, wait_s_max=settings.start_wait_s_max, stop=stop)
    await require_installation(settings, blobs)
    for server_socket in sockets:
        server_socket.listen(BACKLOG)  # before /readyz is true: early connections wait in the backlog
    required: dict[str, ServiceProbe] = {
        "kafka": lambda: ask_kafka(settings, admin),
        "postgres": catalog.check,
        "store": blobs.check,
    }
    probed = _service_probes(settings, required)
    try:
        async with liveness(
            settings, waiting=lambda: False, progress=lambda: None, doing=lambda: "serving", probes=probed
        ) as probes:
            server = server_for(create_app(settings, probes, stop), settings)
            serving = asyncio.create_task(server.serve(sockets))
            get_log().info(
                Action.STARTED, address=[f"{settings.gateway_host}:{bound.getsockname()[1]}" for bound in sockets]
            )
            await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
            probes.drain()
            server.should_exit = True
            await serving
    finally:
        await catalog.close()
    return 0


def _service_probes(settings: Settings, required: Mapping[str, ServiceProbe]) -> dict[str, ServiceProbe]:
    """Return the probes of the required services, and of Redis and clamd where they are configured."""
    probes = dict(required)
    if settings.redis_url.get_secret_value():
        redis = Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=_REDIS_S_MAX)
        probes["redis"] = lambda: _ping_redis(redis)
    if settings.gateway_clamd:
        probes["clamd"] = Scanner(settings.gateway_clamd).check
    return probes


async def _open_components(settings: Settings, stack: AsyncExitStack, stopping: asyncio.Event) -> list[object]:
    """Create what the routes use, one object of each type, until the stack is closed.

    Raises:
        HeadraceError: a service is unreachable, or refuses the connection.
    """
    dsn = settings.postgres_dsn.get_secret_value()
    redis_url = settings.redis_url.get_secret_value()
    pool = await _open_pool(settings, stack)
    publisher = await asyncio.to_thread(Publisher.from_settings, settings)
    stack.push_async_callback(asyncio.to_thread, publisher.close)
    access, requests, uploads = Access(pool, dsn), IngestRequests(pool, dsn), Uploads(pool, dsn)
    statuses, audit_log = IngestStatuses(pool, dsn), AuditLog(access)
    listener = await stack.enter_async_context(listen(dsn))
    wait = IngestWait(statuses, listener.notified)
    await stack.enter_async_context(background_task(wait.run()))
    await stack.enter_async_context(background_task(audit_log.run()))
    inspector = Inspector()
    stack.push_async_callback(asyncio.to_thread, inspector.stop)
    cache = Cache(redis_url)
    stack.push_async_callback(cache.close)
    request_publisher = CaptureRequestPublisher(settings)
    stack.push_async_callback(asyncio.to_thread, request_publisher.close)
    live = LiveConnections(settings, requests, stopping)
    live.tail.start()
    stack.push_async_callback(live.tail.stop)
    blobs = Blobs.from_settings(settings)
    scanner = Scanner(settings.gateway_clamd) if settings.gateway_clamd else None
    pipeline = UploadPipeline(
        UploadReceiver(blobs, UploadMemory(settings.gateway_buffer_bytes_max), scanner, inspector),
        UploadPublisher(publisher, SequenceCounter(unix_us), blobs),
        IngestResults(requests, wait, settings.gateway_answer_s_max),
    )
    limiter = RequestLimiter(redis_url, RateLimits.of(settings))
    trusted = site_networks(settings.gateway_trust, settings.gateway_site)
    for network, site in trusted:
        get_log().warning(Action.TRUSTED, network=str(network), site=site, why="its clients need no key")
    guard = Guard(settings, access, TokenVerifier.from_settings(settings), limiter, audit_log, trusted)
    await stack.enter_async_context(background_task(Sweeper(settings, access, uploads, pipeline).run()))
    queries = (
        Queries(pool, dsn),
        Ldos(pool, dsn),
        DeadLetters(pool, dsn),
        Cameras(pool, dsn),
        ReceiptKey.from_settings(settings),
    )
    clients = (blobs, cache, request_publisher, live)
    return [settings, guard, access, requests, uploads, statuses, pipeline, *clients, *queries]


async def _open_pool(settings: Settings, stack: AsyncExitStack) -> "Pool":
    pool = await open_pool(
        settings.postgres_dsn.get_secret_value(),
        connections_max=settings.postgres_connections_max,
        statement_s_max=settings.postgres_statement_s_max,
        application="headrace gateway",
    )
    stack.push_async_callback(close_pool, pool)
    return pool


async def _catalog(settings: Settings) -> Catalog:
    catalog = await Catalog.open(
        settings.postgres_dsn.get_secret_value(), connections_max=2, application="headrace gateway probe"
    )
    await catalog.check()
    return catalog


async def _ping_redis(redis: "Redis") -> None:
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        # Its text may quote the address.
        why = _UNTRUSTED_REDIS if "CERTIFICATE_VERIFY_FAILED" in str(error) else type(error).__name__
        raise unreachable("redis", "", why, "check HEADRACE_REDIS_URL") from None
