"""Pipelines that do their steps in another order: the next batch does not wait, or Kafka hears before PostgreSQL."""

import asyncio
from collections.abc import Sequence
from typing import Any

from headrace.streams.worker.batch_pipeline import BatchPipeline, delivery_of
from headrace.streams.worker.ports import StreamEvent

_run_batch = BatchPipeline._run_batch


async def _alone(self: BatchPipeline, events: Sequence[StreamEvent], _previous: Any) -> None:
    await _run_batch(self, events, None)


async def _ack_first(self: BatchPipeline, events: Sequence[StreamEvent], previous: Any) -> None:
    decoded = await self._ingest.decode(self._kind, [delivery_of(event.message) for event in events])
    stored = await self._ingest.store_bodies(decoded)
    if previous is not None:
        await asyncio.wait([previous])
    for event in events:
        event.ack()
    await self._ingest.commit(stored)


def overtaking() -> None:
    """Commit each batch as soon as its bodies are stored."""
    BatchPipeline._run_batch = _alone  # type: ignore[assignment, method-assign]


def ack_before_commit() -> None:
    """Acknowledge a batch whose bodies are stored, and commit it afterwards."""
    BatchPipeline._run_batch = _ack_first  # type: ignore[method-assign]
