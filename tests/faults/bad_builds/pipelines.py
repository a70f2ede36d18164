"""Pipelines that do their steps in another order: the next batch does not wait, or Kafka hears before PostgreSQL."""

import asyncio
from typing import Any

from headrace.streams.worker.batch_pipeline import BatchPipeline, finish
from headrace.streams.worker.group_commit import commit_or_store_again


async def _alone(self: BatchPipeline, _batch: Any, queued: Any, _previous: Any) -> None:
    decoded = await self._ingest.decode(self._kind, [item.message for item in queued])
    await commit_or_store_again(self._ingest, await self._ingest.store_bodies(decoded))
    finish(queued)


async def _ack_first(self: BatchPipeline, _batch: Any, queued: Any, previous: Any) -> None:
    decoded = await self._ingest.decode(self._kind, [item.message for item in queued])
    stored = await self._ingest.store_bodies(decoded)
    if previous is not None:
        await asyncio.wait([previous.task])
    finish(queued)
    await self._ingest.commit(stored.rows)


def overtaking() -> None:
    """Commit each batch as soon as its bodies are stored."""
    BatchPipeline._run_batch = _alone  # type: ignore[assignment, method-assign]


def ack_before_commit() -> None:
    """Acknowledge a batch whose bodies are stored, and commit it afterwards."""
    BatchPipeline._run_batch = _ack_first  # type: ignore[assignment, method-assign]
