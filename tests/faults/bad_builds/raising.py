"""An agent that raises on a message that it cannot decode, instead of handing it on to become a dead letter.

Faust starts the agent anew, and what it had taken is handed to nobody again. The next message that is acknowledged
takes the committed offset past it (`concurrency.py` says how).
"""

from typing import Any

from headrace.schemas.codec import decode
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.worker import agents
from headrace.streams.worker.batch_pipeline import BatchPipeline
from tests.faults.bad_builds.concurrency import count_as_faust


def _register(app: Any, kind: Kind, pipeline: BatchPipeline, *, batch_messages_max: int, linger_s: float) -> None:
    expected = input_topic(kind).event

    async def take(stream: Any) -> None:
        async for events in stream.noack_take(batch_messages_max, within=linger_s):
            for event in events:
                decode(event.message.value, expected)
            await pipeline.submit(events)

    topic = app.topic(input_topic(kind).name, value_type=bytes, value_serializer="raw", key_serializer="raw")
    app.agent(topic, name=f"{kind}s", concurrency=1)(take)


def apply() -> None:
    """Let each agent decode first, and raise; and count acknowledged offsets as Faust does."""
    agents.register = _register
    count_as_faust()
