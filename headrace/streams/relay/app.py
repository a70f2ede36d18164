"""The relay's composition root."""

import asyncio
import time

from headrace.runtime.kafka import require_any_topic, wait_for_kafka
from headrace.runtime.liveness import ask_kafka, liveness
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.runtime.wait_for_service import wait_for
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.outbox import Outbox
from headrace.store.installation import require_installation
from headrace.streams.relay.announcement import OUTPUT_TOPICS
from headrace.streams.relay.loop import Relay


async def relay(settings: Settings, stop: asyncio.Event) -> int:
    """Publish the outbox, or be on standby while another relay does, until `stop` is set.

    Returns the exit code: `Exit.TRANSIENT` if another relay took over, so that a supervisor restarts this one.

    Raises:
        HeadraceError: Kafka or PostgreSQL is unavailable at the start or refuses, or a topic does not exist.
    """
    admin = await wait_for_kafka(settings, stop=stop)
    # Of a topic that is missing, or that an ACL hides, the rows wait; the others are announced.
    await asyncio.to_thread(require_any_topic, settings, admin, OUTPUT_TOPICS)
    outbox = await wait_for("postgres", lambda: _opened(settings), wait_s_max=settings.start_wait_s_max, stop=stop)
    await require_installation(settings, Blobs.from_settings(settings))
    running = Relay(settings, outbox, now_us=lambda: time.time_ns() // 1000)
    try:
        async with liveness(
            settings,
            waiting=running.waiting,
            progress=lambda: running.steps,
            doing=lambda: str(running.phase),
            probes={"kafka": lambda: ask_kafka(settings, admin), "postgres": outbox.checkpoints},
        ):
            get_log().info(Action.STARTED)
            return await running.run(stop)
    finally:
        await outbox.close()


async def _opened(settings: Settings) -> Outbox:
    return await Outbox.open(
        settings.postgres_dsn.get_secret_value(), statement_s_max=settings.postgres_statement_s_max
    )
