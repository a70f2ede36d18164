"""The watchdog, the probes and the health server of a worker, relay or consumer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.runtime.health import HealthServer, Probes
from headrace.runtime.kafka import kafka_failed
from headrace.runtime.settings import Settings
from headrace.runtime.watchdog import Watchdog

PROBE_S_MAX = 2.0


@asynccontextmanager
async def liveness(
    settings: Settings,
    *,
    waiting: Callable[[], bool],
    progress: Callable[[], object],
    doing: Callable[[], str],
    probes: Mapping[str, Callable[[], Awaitable[object]]],
) -> AsyncIterator[Probes]:
    """Run watchdog, probes and health server in the context; `doing` is what `/livez` reports of a live process."""
    watchdog = Watchdog(settings.watchdog_s, waiting=waiting, progress=progress)
    prober = Probes(probes)

    def livez() -> tuple[bool, str]:
        alive, why = watchdog.livez()
        return alive, doing() if alive else why

    health = HealthServer(settings.health_host, settings.health_port, livez=livez, readyz=prober.readyz)
    probing = asyncio.create_task(prober.run())
    watchdog.start()
    health.start()
    try:
        yield prober
    finally:
        probing.cancel()
        await asyncio.to_thread(health.stop)
        await asyncio.to_thread(watchdog.stop)


async def ask_kafka(settings: Settings, admin: AdminClient) -> None:
    """Check that Kafka answers.

    Raises:
        HeadraceError: it does not.
    """
    try:
        await asyncio.to_thread(admin.list_topics, timeout=PROBE_S_MAX)
    except KafkaException as error:
        raise kafka_failed(settings, error.args[0]) from None
