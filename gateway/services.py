"""What the gateway works with, opened once and handed to whoever handles a request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from gateway.access.limiter import Limiter, Limits
from gateway.access.tokens import Tokens
from gateway.access.trail import Trail
from gateway.capture.dispatch import Dispatcher
from gateway.live.streams import Live
from gateway.reading.cache import Cache
from gateway.uploads.budget import Budget
from gateway.uploads.inspection import Inspector
from gateway.uploads.landing import Landing
from gateway.uploads.scanning import Scanner
from producers.publisher import Publisher
from producers.sequence import Sequence, unix_us
from runtime.beside import beside
from runtime.health import Readyz
from runtime.settings import Settings
from store.access import Access
from store.blobs import Blobs
from store.cameras import Cameras
from store.landing import Landings
from store.ldos import Ldos
from store.postgres import close_pool, open_pool
from store.queries import Queries
from store.requests import Requests
from store.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a request may need."""

    settings: Settings
    publisher: Publisher
    sequence: Sequence
    blobs: Blobs
    queries: Queries
    access: Access
    requests: Requests
    uploads: Uploads
    landings: Landings
    landing: Landing
    ldos: Ldos
    cameras: Cameras
    cache: Cache
    budget: Budget
    inspector: Inspector
    scanner: Scanner | None
    limits: Limits
    limiter: Limiter
    tokens: Tokens
    trail: Trail
    dispatcher: Dispatcher
    live: Live
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
        landings = Landings(pool, dsn)
        landing, trail, inspector = Landing(landings), Trail(access), Inspector()
        await stack.enter_async_context(beside(landing.run()))
        await stack.enter_async_context(beside(trail.run()))
        stack.push_async_callback(asyncio.to_thread, inspector.stop)
        cache = Cache(settings.redis_url.get_secret_value())
        stack.push_async_callback(cache.close)
        dispatcher = Dispatcher(settings)
        stack.push_async_callback(asyncio.to_thread, dispatcher.close)
        requests = Requests(pool, dsn)
        live = Live(settings, requests, stopping or asyncio.Event())
        live.tail.start()
        stack.push_async_callback(live.tail.stop)
        yield Services(
            settings=settings,
            publisher=publisher,
            sequence=Sequence(unix_us),
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
            budget=Budget(settings.gateway_buffer_bytes_max),
            inspector=inspector,
            scanner=Scanner(settings.gateway_clamd) if settings.gateway_clamd else None,
            limits=Limits.of(settings),
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
