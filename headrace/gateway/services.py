"""What the gateway works with, opened once and handed to whoever handles a request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from headrace.gateway.auth.audit_log import AuditLog
from headrace.gateway.auth.rate_limiter import Limiter, RateLimits
from headrace.gateway.auth.tokens import Tokens
from headrace.gateway.capture.request_topic import Dispatcher
from headrace.gateway.live.connection_limits import LiveConnections
from headrace.gateway.queries.cache import Cache
from headrace.gateway.uploads.budget import UploadMemory
from headrace.gateway.uploads.ingest_wait import IngestWait
from headrace.gateway.uploads.inspection import Inspector
from headrace.gateway.uploads.scanning import Scanner
from headrace.producers.publisher import Publisher
from headrace.producers.sequence import SequenceCounter, unix_us
from headrace.runtime.background_task import background_task
from headrace.runtime.health import Readyz
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.ldos import Ldos
from headrace.store.catalog.queries import Queries
from headrace.store.postgres import close_pool, open_pool
from headrace.store.requests.access import Access
from headrace.store.requests.cameras import Cameras
from headrace.store.requests.ingest_status import IngestStatuses
from headrace.store.requests.requests import IngestRequests
from headrace.store.requests.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a request may need."""

    settings: Settings
    publisher: Publisher
    sequence: SequenceCounter
    blobs: Blobs
    queries: Queries
    access: Access
    requests: IngestRequests
    uploads: Uploads
    landings: IngestStatuses
    landing: IngestWait
    ldos: Ldos
    cameras: Cameras
    cache: Cache
    budget: UploadMemory
    inspector: Inspector
    scanner: Scanner | None
    limits: RateLimits
    limiter: Limiter
    tokens: Tokens
    trail: AuditLog
    dispatcher: Dispatcher
    live: LiveConnections
    readyz: Readyz


@asynccontextmanager
async def opened(settings: Settings, readyz: Readyz, stopping: asyncio.Event | None = None) -> AsyncIterator[Services]:
    """Open everything for as long as the context lasts.

    Raises:
        HeadraceError: a service is away or refuses.
    """
    dsn = settings.postgres_dsn.get_secret_value()
    async with AsyncExitStack() as stack:
        pool = await open_pool(
            dsn,
            connections_max=settings.postgres_connections_max,
            statement_s_max=settings.postgres_statement_s_max,
            application="headrace gateway",
        )
        stack.push_async_callback(close_pool, pool)
        publisher = await asyncio.to_thread(Publisher.from_settings, settings)
        stack.push_async_callback(asyncio.to_thread, publisher.close)
        access = Access(pool, dsn)
        landings = IngestStatuses(pool, dsn)
        landing, trail, inspector = IngestWait(landings), AuditLog(access), Inspector()
        await stack.enter_async_context(background_task(landing.run()))
        await stack.enter_async_context(background_task(trail.run()))
        stack.push_async_callback(asyncio.to_thread, inspector.stop)
        cache = Cache(settings.redis_url.get_secret_value())
        stack.push_async_callback(cache.close)
        dispatcher = Dispatcher(settings)
        stack.push_async_callback(asyncio.to_thread, dispatcher.close)
        requests = IngestRequests(pool, dsn)
        live = LiveConnections(settings, requests, stopping or asyncio.Event())
        live.tail.start()
        stack.push_async_callback(live.tail.stop)
        yield Services(
            settings=settings,
            publisher=publisher,
            sequence=SequenceCounter(unix_us),
            blobs=Blobs.from_settings(settings),
            queries=Queries(pool, dsn),
            access=access,
            requests=requests,
            uploads=Uploads(pool, dsn),
            landings=landings,
            landing=landing,
            ldos=Ldos(pool, dsn),
            cameras=Cameras(pool, dsn),
            cache=cache,
            budget=UploadMemory(settings.gateway_buffer_bytes_max),
            inspector=inspector,
            scanner=Scanner(settings.gateway_clamd) if settings.gateway_clamd else None,
            limits=RateLimits.of(settings),
            limiter=Limiter(settings.redis_url.get_secret_value()),
            tokens=Tokens(
                secret=settings.gateway_token_secret.get_secret_value(),
                audience=settings.gateway_jwt_audience,
                issuer=settings.gateway_jwt_issuer,
                jwks=settings.gateway_jwks,
            ),
            trail=trail,
            dispatcher=dispatcher,
            live=live,
            readyz=readyz,
        )


def services_of(connection: HTTPConnection) -> Services:
    """Return what the application that handles this works with."""
    found: Services = connection.app.state.services
    return found


Here = Annotated[Services, Depends(services_of)]
"""The services, as a call's parameter."""
