"""An agent that raises on a message that it cannot decode, instead of handing it on to become a dead letter.

Faust starts the agent anew, and what it had taken is handed to nobody again. The next batch that is finished takes the
committed offset past it.
"""

from typing import Any

from headrace.schemas.codec import decode
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.worker import agents
from headrace.streams.worker.batch_pipeline import BatchPipeline


def _register(app: Any, kind: Kind, names: list[str], pipeline: BatchPipeline) -> None:
    expected = input_topic(kind).event

    async def ingest(stream: Any) -> None:
        async for event in stream.noack().events():
            for message in event.message.messages:
                decode(message.value, expected)
            await pipeline.submit(event.message)

    topic = app.topic(*names, value_type=bytes, value_serializer="raw", key_serializer="raw")
    app.agent(topic, name=f"{kind}s", concurrency=1)(ingest)


def apply() -> None:
    """Let each agent decode first, and raise."""
    agents.register = _register
