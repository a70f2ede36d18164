"""The composition root of the consumers that ship with Headrace."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from runtime.health import HealthServer
from runtime.kafka import kafka_unreachable, require_topics, wait_for_kafka
from runtime.logs import Action, get_log
from runtime.probes import Probes
from runtime.settings import Settings
from runtime.waiting import wait_for
from runtime.watchdog import Watchdog
from schemas.events import Kind
from schemas.topics import PERCEIVED, PREPROCESSED, ingested_topic
from store.blobs import Blobs
from streams.consumers import perception as perceiving
from streams.consumers import preprocessing as measuring
from streams.consumers.consume import opened_blobs
from streams.consumers.derive import Deriving

PROBE_S_MAX = 2.0


async def preprocessing(settings: Settings, stop: asyncio.Event) -> int:
    """Measure every frame until `stop` is set; returns the exit code.

    Raises:
        HeadraceError: a service is away or refuses, or a topic is missing.
    """
    blobs = opened_blobs(settings)
    measured = measuring.Preprocessing(blobs)
    deriving = Deriving(settings, measuring.NAME, measured.compute, blobs=blobs, forget=lambda _places: None)
    return await _serve(settings, deriving, blobs, PREPROCESSED.name, stop)


async def perception(settings: Settings, stop: asyncio.Event) -> int:
    """Find what changed in every frame until `stop` is set; returns the exit code.

    Raises:
        HeadraceError: a service is away or refuses, or a topic is missing.
    """
    blobs = opened_blobs(settings)
    seen = perceiving.Perception()
    deriving = Deriving(settings, perceiving.NAME, seen.compute, blobs=blobs, forget=seen.forget)
    return await _serve(settings, deriving, blobs, PERCEIVED.name, stop)


CONSUMERS: dict[str, Callable[[Settings, asyncio.Event], Awaitable[int]]] = {
    measuring.NAME: preprocessing,
    perceiving.NAME: perception,
}


async def _serve(settings: Settings, deriving: Deriving, blobs: Blobs, output: str, stop: asyncio.Event) -> int:
    admin = await asyncio.to_thread(wait_for_kafka, settings)
    await asyncio.to_thread(require_topics, settings, admin, [ingested_topic(Kind.FRAME).name, output])
    await wait_for("store", blobs.check, wait_s_max=settings.start_wait_s_max)
    async with _watched(settings, deriving, blobs, admin):
        get_log().info(Action.STARTED)
        return await deriving.run(stop)


@asynccontextmanager
async def _watched(settings: Settings, deriving: Deriving, blobs: Blobs, admin: AdminClient) -> AsyncIterator[None]:
    """Run what watches the consumer: watchdog, probes and the health server."""

    async def ask_kafka() -> None:
        try:
            await asyncio.to_thread(admin.list_topics, timeout=PROBE_S_MAX)
        except KafkaException as error:
            raise kafka_unreachable(settings, error.args[0]) from None

    watchdog = Watchdog(settings.watchdog_s, waiting=deriving.waiting, progress=deriving.progress)
    probes = Probes({"kafka": ask_kafka, "store": blobs.check})
    health = HealthServer(settings.health_host, settings.health_port, livez=watchdog.livez, readyz=probes.readyz)
    asking = asyncio.create_task(probes.run())
    watchdog.start()
    health.start()
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.to_thread(health.stop)
        await asyncio.to_thread(watchdog.stop)
