"""The relay's composition root."""

import asyncio
import time
from collections.abc import AsyncIterator
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
from store.outbox import Outbox
from streams.relay.loop import Phase, Relay
from streams.relay.plan import OUTPUT_TOPICS

PROBE_S_MAX = 2.0


async def relay(settings: Settings, stop: asyncio.Event) -> int:
    """Announce what the catalog holds, or stand by while another relay does, until `stop` is set.

    Returns the exit code: `Exit.TRANSIENT` where another relay took over, so that a supervisor lets this one stand by.

    Raises:
        HeadraceError: Kafka or PostgreSQL is away at start-up or refuses, or a topic is missing.
    """
    admin = await asyncio.to_thread(wait_for_kafka, settings)
    await asyncio.to_thread(require_topics, settings, admin, OUTPUT_TOPICS)
    outbox = await wait_for("postgres", lambda: _opened(settings), wait_s_max=settings.start_wait_s_max)
    try:
        moving = Relay(settings, outbox, now_us=lambda: time.time_ns() // 1000)
        async with _watched(settings, moving, outbox, admin):
            get_log().info(Action.STARTED)
            return await moving.run(stop)
    finally:
        await outbox.close()


@asynccontextmanager
async def _watched(settings: Settings, relay: Relay, outbox: Outbox, admin: AdminClient) -> AsyncIterator[None]:
    """Run what watches the relay: watchdog, probes and the health server."""
    watchdog = Watchdog(settings.watchdog_s, waiting=relay.waiting, progress=lambda: relay.steps)
    probes = Probes({"kafka": lambda: asyncio.to_thread(_ask_kafka, settings, admin), "postgres": outbox.checkpoints})

    def livez() -> tuple[bool, str]:
        alive, why = watchdog.livez()
        return alive, str(relay.phase) if alive and relay.phase in {Phase.STANDING_BY, Phase.IDLE} else why

    health = HealthServer(settings.health_host, settings.health_port, livez=livez, readyz=probes.readyz)
    asking = asyncio.create_task(probes.run())
    watchdog.start()
    health.start()
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.to_thread(health.stop)
        await asyncio.to_thread(watchdog.stop)


async def _opened(settings: Settings) -> Outbox:
    return await Outbox.open(
        settings.postgres_dsn.get_secret_value(), statement_s_max=settings.postgres_statement_s_max
    )


def _ask_kafka(settings: Settings, admin: AdminClient) -> None:
    try:
        admin.list_topics(timeout=PROBE_S_MAX)
    except KafkaException as error:
        raise kafka_unreachable(settings, error.args[0]) from None
