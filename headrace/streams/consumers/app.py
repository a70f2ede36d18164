"""The composition root of the consumers that ship with Headrace."""

import asyncio
from collections.abc import Awaitable, Callable

from headrace.runtime.acl import Operation
from headrace.runtime.kafka import require_topics, wait_for_kafka
from headrace.runtime.liveness import liveness
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.runtime.wait_for_service import wait_for
from headrace.schemas.topics import PERCEIVED, PREPROCESSED
from headrace.store.blobs.blob_store import Blobs
from headrace.store.installation import require_installation
from headrace.streams.consumers import perception as perception_module
from headrace.streams.consumers import preprocessing as preprocessing_module
from headrace.streams.consumers.derive import TOPICS, DerivingConsumer
from headrace.streams.worker.lag import LagProbe


async def preprocessing(settings: Settings, stop: asyncio.Event) -> int:
    """Measure every frame until `stop` is set; return the exit code.

    Raises:
        HeadraceError: a service is unavailable or refuses, or a topic does not exist.
    """
    blobs = Blobs.from_settings(settings)
    preprocessor = preprocessing_module.Preprocessing(blobs)
    consumer = DerivingConsumer(
        settings, preprocessing_module.NAME, preprocessor.compute, blobs=blobs, forget=lambda _partitions: None
    )
    return await _serve(settings, consumer, blobs, PREPROCESSED.name, stop)


async def perception(settings: Settings, stop: asyncio.Event) -> int:
    """Detect changes in every frame until `stop` is set; return the exit code.

    Raises:
        HeadraceError: a service is unavailable or refuses, or a topic does not exist.
    """
    blobs = Blobs.from_settings(settings)
    detector = perception_module.Perception()
    consumer = DerivingConsumer(settings, perception_module.NAME, detector.compute, blobs=blobs, forget=detector.forget)
    return await _serve(settings, consumer, blobs, PERCEIVED.name, stop)


CONSUMERS: dict[str, Callable[[Settings, asyncio.Event], Awaitable[int]]] = {
    preprocessing_module.NAME: preprocessing,
    perception_module.NAME: perception,
}


async def _serve(settings: Settings, consumer: DerivingConsumer, blobs: Blobs, output: str, stop: asyncio.Event) -> int:
    admin = await wait_for_kafka(settings, stop=stop)
    needed = dict.fromkeys(TOPICS, Operation.READ) | {output: Operation.WRITE}
    await asyncio.to_thread(require_topics, settings, admin, needed)
    await wait_for("store", blobs.check, wait_s_max=settings.start_wait_s_max, stop=stop)
    await require_installation(settings, blobs, has_catalog=False)
    # The current batch shows progress; the lag shows whether there should be a batch. While Kafka is unavailable, the
    # lag is unknown, so an outage does not look like a stall.
    lag = LagProbe(settings, consumer.group, TOPICS, consumer.assigned)
    async with liveness(
        settings,
        waiting=lambda: consumer.waiting() or lag.waiting(),
        progress=lambda: (consumer.progress(), lag.progress()),
        doing=lambda: "a batch is being handled" if consumer.waiting() else "waiting for frames",
        probes={"kafka": lag.check, "store": blobs.check},
    ):
        lag.start()
        try:
            get_log().info(Action.STARTED)
            return await consumer.run(stop)
        finally:
            await asyncio.to_thread(lag.stop)
