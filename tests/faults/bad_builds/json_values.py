"""A JSON value type: Faust decodes the values before the agent sees them.

What it cannot decode it acknowledges first and reports afterwards, to a log (`faust/transport/conductor.py`, where
`ValueDecodeError` is caught).
"""

from typing import Any

from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.worker import agents
from headrace.streams.worker.batch_pipeline import BatchPipeline


def _register(app: Any, kind: Kind, pipeline: BatchPipeline, *, batch_messages_max: int, linger_s: float) -> None:
    async def take(stream: Any) -> None:
        async for events in stream.noack_take(batch_messages_max, within=linger_s):
            await pipeline.submit(events)

    topic = app.topic(input_topic(kind).name, value_serializer="json", key_serializer="raw")
    app.agent(topic, name=f"{kind}s", concurrency=1)(take)


def apply() -> None:
    """Let Faust decode."""
    agents.register = _register
