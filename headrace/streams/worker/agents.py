"""One Faust agent for each kind; from here messages go to `batch_pipeline.py`, which runs `ingest.py`."""

from typing import Any

from headrace.schemas.events import Kind
from headrace.streams.worker.batch_pipeline import BatchPipeline


def register(app: Any, kind: Kind, names: list[str], pipeline: BatchPipeline) -> None:
    """Add the agent that passes one kind's messages to its pipeline, which finishes them.

    Each event is a `PartitionBatch` of `faust/direct_consumer.py`; Faust acknowledges none. `names` are the topics: a
    change of the list takes effect with `FaustApp.resubscribe`.
    """

    async def ingest(stream: Any) -> None:
        async for event in stream.noack().events():
            await pipeline.submit(event.message)

    topic = app.topic(names[0], value_type=bytes, value_serializer="raw", key_serializer="raw")
    topic.topics = names
    app.agent(topic, name=f"{kind}s", concurrency=1)(ingest)
