"""Pipelines that do their steps in another order: the next batch does not wait, or Kafka hears before PostgreSQL."""

from typing import Any

from headrace.streams.worker.batch_pipeline import BatchPipeline, finish
from headrace.streams.worker.group_commit import commit_or_store_again
from tests.simulation.simulation_mutants import AckBeforeCommit


async def _alone(self: BatchPipeline, _batch: Any, queued: Any, _previous: Any) -> None:
    decoded = await self._ingest.decode(self._kind, [item.message for item in queued])
    await commit_or_store_again(self._ingest, await self._ingest.store_bodies(decoded))
    finish(queued)


def overtaking() -> None:
    """Commit each batch as soon as its bodies are stored."""
    BatchPipeline._run_batch = _alone  # type: ignore[assignment, method-assign]


def ack_before_commit() -> None:
    """Acknowledge a batch whose bodies are stored, and commit it afterwards."""
    BatchPipeline._run_batch = AckBeforeCommit._run_batch  # type: ignore[assignment, method-assign]
