"""One Faust agent for each input topic; from here a message goes to `batch_pipeline.py`, which runs `ingest.py`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

from headrace.runtime.background_task import background_task
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.worker.batch_pipeline import BatchPipeline
from headrace.streams.worker.ports import StreamEvent


def register(app: Any, kind: Kind, pipeline: BatchPipeline, *, batch_messages_max: int, linger_s: float) -> None:
    """Add the agent that passes one kind's messages in batches to its pipeline, which acknowledges them."""

    async def ingest(stream: Any) -> None:
        events = stream.noack().events()
        async with aclosing(batches(events, messages_max=batch_messages_max, linger_s=linger_s)) as grouped:
            async for batch in grouped:
                await pipeline.submit(batch)

    topic = app.topic(input_topic(kind).name, value_type=bytes, value_serializer="raw", key_serializer="raw")
    app.agent(topic, name=f"{kind}s", concurrency=1)(ingest)


async def batches(
    events: AsyncIterator[StreamEvent], *, messages_max: int, linger_s: float
) -> AsyncGenerator[list[StreamEvent], None]:
    """Yield events in batches; a batch ends when it is full, or `linger_s` seconds after its first event.

    Faust's own `noack_take` wakes every `linger_s` seconds whether or not an event came; this waits for an event.
    At most two more events are taken from `events` while a batch is being handled.
    """
    queue: asyncio.Queue[StreamEvent] = asyncio.Queue(1)
    async with background_task(_forward(events, queue)):
        while True:
            batch = [await queue.get()]
            with suppress(TimeoutError):
                async with asyncio.timeout(linger_s):
                    while len(batch) < messages_max:
                        batch.append(await queue.get())
            yield batch


async def _forward(events: AsyncIterator[StreamEvent], queue: "asyncio.Queue[StreamEvent]") -> None:
    async for event in events:
        await queue.put(event)
