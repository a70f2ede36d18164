"""Systems that lose or repeat something, each by one mistake that looks harmless. The simulation must find them all.

Beside each stands the smallest schedule in which a search found it, so that a short run need not search.
"""

import asyncio
from dataclasses import replace
from typing import Any

from headrace.schemas.catalog_rows import CommitResult, RowBatch
from headrace.schemas.digest import event_id
from headrace.schemas.topics import ingested_topic
from headrace.streams.relay.announcement import announce
from headrace.streams.relay.outbox_publisher import OutboxPublisher
from headrace.streams.relay.topic_relay import TopicRelay
from headrace.streams.worker.batch_pipeline import BatchPipeline, finish
from headrace.streams.worker.ingest import Ingest
from tests.simulation.simulation_faults import Effect, Fault, Schedule, SentInput, SimulationStep
from tests.simulation.simulation_run import System
from tests.simulation.simulation_stores import CATALOG_AWAY


class AckBeforeCommit(BatchPipeline):
    """Acknowledges what is decoded and stored, and then writes the rows."""

    async def _run_batch(self, batch: Any, queued: Any, previous: Any) -> None:
        try:
            decoded = await self._ingest.decode(self._kind, [item.message for item in queued])
            stored = await self._ingest.store_bodies(decoded)
            if previous is not None:
                await asyncio.wait([previous.task])
            finish(queued)
            await self._ingest.commit(stored.rows)
        except Exception as error:  # noqa: BLE001 - as the pipeline itself
            self._end(error)


class AckOutOfOrder(BatchPipeline):
    """Does not wait for the batch before."""

    async def _run_batch(self, batch: Any, queued: Any, _previous: Any) -> None:
        await super()._run_batch(batch, queued, None)


class PublishBeforeCommit(Ingest):
    """The worker announces by itself, before the transaction."""

    async def commit(self, rows: RowBatch) -> CommitResult:
        catalog: Any = self._catalog
        for row in {row.record_id: row for row in rows.records}.values():
            if row.record_id not in catalog.records:
                event = event_id(row.record_id)
                catalog.said.add(event)
                catalog.say(ingested_topic(row.kind).name, event)
        return await super().commit(rows)


class ClaimFirst(Ingest):
    """Deduplicates by a set of its own, which it writes before the rows."""

    async def commit(self, rows: RowBatch) -> CommitResult:
        catalog: Any = self._catalog

        def claim() -> set[Any]:
            new = {row.record_id for row in rows.records} - catalog.claimed
            catalog.claimed |= new
            return new

        new = await self.retry(lambda: catalog.weather.step(SimulationStep.CLAIM, claim, away=CATALOG_AWAY))
        records = [row for row in rows.records if row.record_id in new]
        return await super().commit(replace(rows, records=records))


class MarkBeforeSend(TopicRelay):
    """Marks the rows, and then announces them."""

    async def _announce(self, publisher: OutboxPublisher, rows: list[Any]) -> None:
        await self._outbox.mark([row.outbox_id for row in rows])
        await self._blocking(lambda: publisher.announce([announce(row, publisher.bytes_max) for row in rows]))


class NoLookBack(TopicRelay):
    """Does not read what is out before it goes on."""

    async def _catch_up(self, _over: asyncio.Event) -> None:
        return


def one_fault(step: SimulationStep, effect: Effect, *, messages: int = 4) -> Schedule:
    """Deliver the same scan a few times, one message a batch, while one step fails at its first time."""
    return Schedule(
        seed=0,
        messages=(SentInput(source=0, what="cid", number=0),) * messages,
        faults=(Fault(step, nth=1, effect=effect, seconds=1),),
        workers=1,
        relays=1,
        batch_max=1,
    )


MUTANTS: dict[str, tuple[System, Schedule]] = {
    "ack before commit": (System(pipeline=AckBeforeCommit), one_fault(SimulationStep.COMMIT, Effect.FAIL, messages=3)),
    "ack out of order": (System(pipeline=AckOutOfOrder), one_fault(SimulationStep.PUT, Effect.FAIL)),
    "publish before commit": (
        System(ingest=PublishBeforeCommit),
        one_fault(SimulationStep.COMMIT, Effect.CRASH_BEFORE),
    ),
    "a dedupe that claims first": (System(ingest=ClaimFirst), one_fault(SimulationStep.COMMIT, Effect.CRASH_BEFORE)),
    "mark before send": (System(topic_relay=MarkBeforeSend), one_fault(SimulationStep.SEND, Effect.FAIL)),
    "no look back": (System(topic_relay=NoLookBack), one_fault(SimulationStep.END, Effect.LOST)),
}
