"""The composition root of the consumers that ship with Headrace."""

import asyncio
from collections.abc import Awaitable, Callable

from runtime.kafka import require_topics, wait_for_kafka
from runtime.logs import Action, get_log
from runtime.settings import Settings
from runtime.waiting import wait_for
from schemas.events import Kind
from schemas.topics import PERCEIVED, PREPROCESSED, ingested_topic
from store.blobs import Blobs
from streams.consumers import perception as perceiving
from streams.consumers import preprocessing as measuring
from streams.consumers.consume import opened_blobs
from streams.consumers.derive import Deriving
from streams.watched import ask_kafka, watched


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
    async with watched(
        settings,
        waiting=deriving.waiting,
        progress=deriving.progress,
        doing=lambda: "a batch is being handled" if deriving.waiting() else "waiting for frames",
        probes={"kafka": lambda: ask_kafka(settings, admin), "store": blobs.check},
    ):
        get_log().info(Action.STARTED)
        return await deriving.run(stop)
