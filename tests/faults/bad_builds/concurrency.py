"""`concurrency=2`: two coroutines of one agent take turns at one queue.

With concurrency 1 no later batch is ever finished first: the pipeline finishes in the order of its calls. With 2, one
coroutine may wait in `BatchPipeline.submit` with a large message while the other submits the small message behind it.
Then the committed offset passes a message that is not durable, as in faust-streaming #606.
"""

from typing import Any

from headrace.schemas.events import Kind
from headrace.streams.worker import agents
from headrace.streams.worker.batch_pipeline import BatchPipeline


def _register(app: Any, kind: Kind, names: list[str], pipeline: BatchPipeline) -> None:
    async def ingest(stream: Any) -> None:
        async for event in stream.noack().events():
            await pipeline.submit(event.message)

    topic = app.topic(*names, value_type=bytes, value_serializer="raw", key_serializer="raw")
    app.agent(topic, name=f"{kind}s", concurrency=2)(ingest)


def apply() -> None:
    """Give each agent two coroutines."""
    agents.register = _register
