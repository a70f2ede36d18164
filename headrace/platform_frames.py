"""The platform's frames enter this service as those of any camera do: as events, through a publisher."""

import asyncio
from collections.abc import Awaitable, Callable

from headrace.producers import describe_frame
from headrace.producers.delivery import EventPublisher
from headrace.schemas.events import Origin


def publishing(publisher: EventPublisher) -> Callable[[bytes, Origin, bytes], Awaitable[None]]:
    """Return what publishes a picture with its attributes, and returns when Kafka has acknowledged it.

    Raises:
        Rejected: the frame can never be ingested. HeadraceError: it was not acknowledged.
    """

    async def publish(body: bytes, origin: Origin, attributes: bytes) -> None:
        event = describe_frame(body, origin, attributes=attributes)
        # Handing over blocks while too much is in flight.
        await asyncio.wrap_future(await asyncio.to_thread(publisher.publish, event))

    return publish
