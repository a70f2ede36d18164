"""`concurrency=2`: two coroutines of one agent take turns at one queue.

Faust commits the end of the gapless run of acknowledged offsets, and where that run begins it looks for a hole: it
commits nothing while `min(acked) - committed_offset > 1` (`Consumer._new_offset` in `faust/transport/consumer.py` of
0.15.3). But `committed_offset` is the *next* offset to be read. So with just that one message unfinished and the one
after it acknowledged the difference is 1, and the commit passes the unfinished message; where nothing was committed
yet, it passes any number of them. That is faust-streaming #606. Our own consumer
(`headrace/streams/worker/faust/direct_consumer.py`) counts offsets itself, so that this mistake alone costs nothing any
more: the build counts them as Faust does.

With concurrency 1 no later offset is ever acknowledged first: the pipeline acknowledges in the order of its calls.
With 2, one coroutine may wait in `BatchPipeline.submit` with a large message while the other submits the small message
behind it. That is the hole.
"""

from typing import Any

from faust.transport.consumer import Consumer

from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.worker import agents
from headrace.streams.worker.batch_pipeline import BatchPipeline
from headrace.streams.worker.faust.direct_consumer import DirectConsumer


def _register(app: Any, kind: Kind, pipeline: BatchPipeline, *, batch_messages_max: int, linger_s: float) -> None:
    async def take(stream: Any) -> None:
        async for events in stream.noack_take(batch_messages_max, within=linger_s):
            await pipeline.submit(events)

    topic = app.topic(input_topic(kind).name, value_type=bytes, value_serializer="raw", key_serializer="raw")
    app.agent(topic, name=f"{kind}s", concurrency=2)(take)


def count_as_faust() -> None:
    """Commit the offsets that Faust itself would commit."""
    DirectConsumer._new_offset = Consumer._new_offset  # type: ignore[method-assign]


def apply() -> None:
    """Give each agent two coroutines, and count acknowledged offsets as Faust does."""
    agents.register = _register
    count_as_faust()
