"""One Faust agent for each input topic. Decoding, checking and storing are the same for all; the kind says the rest."""

from typing import Any

from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.worker.batch_pipeline import BatchPipeline


def register(app: Any, kind: Kind, lane: BatchPipeline, *, batch_messages_max: int, linger_s: float) -> None:
    """Add the agent that takes one kind's messages in batches and hands them to its lane, which acknowledges them."""

    async def take(stream: Any) -> None:
        async for events in stream.noack_take(batch_messages_max, within=linger_s):
            await lane.take(events)

    topic = app.topic(input_topic(kind).name, value_type=bytes, value_serializer="raw", key_serializer="raw")
    app.agent(topic, name=f"{kind}s", concurrency=1)(take)
