"""One batch in three steps, each durable before the next begins: decode, store the bodies, commit the rows.

Every step may be repeated, so a transient fault repeats only that step, and a crash anywhere repeats the batch. The
loop that runs the steps, and acknowledges, is in `batch_pipeline.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from headrace.runtime import crash_points
from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.runtime.metrics import Step, worker_step_seconds
from headrace.schemas.catalog_rows import CommitResult, RowBatch
from headrace.schemas.events import Kind
from headrace.streams.core.batch_plan import row_batch, store_plan
from headrace.streams.core.delivery import ConsumedMessage, as_original, progress_of, redrives_in, with_origin
from headrace.streams.core.erased import ErasableDigests, erasable_digests, erased_claims, without_erased
from headrace.streams.core.examine import AcceptedDelivery, DecodedBatch, RejectedDelivery, examine_batch
from headrace.streams.worker.body_store import BodyStore, in_thread_if_large
from headrace.streams.worker.ports import IngestPorts
from headrace.streams.worker.retry import Retry


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch whose bodies are durable: what remains is its transaction."""

    decoded: DecodedBatch
    rows: RowBatch

    @property
    def accepted(self) -> tuple[AcceptedDelivery, ...]:
        """The messages that become records."""
        return self.decoded.accepted

    @property
    def rejected(self) -> tuple[RejectedDelivery, ...]:
        """The messages that become dead letters."""
        return self.decoded.rejected


class Ingest:
    """The steps of every batch of one process."""

    def __init__(
        self,
        ports: IngestPorts,
        *,
        retry: Retry,
        reached: Reached = crash_points.reached,
    ) -> None:
        """`reached` is called at each crash point."""
        self._catalog = ports.catalog
        self._staged = ports.staged
        self._bodies = BodyStore(ports, retry, reached)
        self.retry = retry
        self.reached = reached

    @property
    def steps(self) -> dict[Kind, int]:
        """Count the parts of bodies that were stored, for each kind, so that a slow kind cannot hide a hung one."""
        return self._bodies.steps

    async def decode(self, kind: Kind, messages: Sequence[ConsumedMessage]) -> DecodedBatch:
        """Decode and validate messages; one that can never be ingested is rejected, without an exception."""
        progress = progress_of(messages)
        messages = [with_origin(message) for message in await self._at_original_positions(messages)]
        with worker_step_seconds.labels(Step.DECODE).time():
            size_bytes = sum(len(message.value or b"") for message in messages)
            batch = await in_thread_if_large(size_bytes, partial(self._examine, kind, messages))
        return replace(batch, progress=progress)

    async def store_bodies(self, batch: DecodedBatch) -> StoredBatch:
        """Make the bodies durable that the catalog does not know.

        A message whose staged body does not match, or whose bytes were erased, is rejected.
        """
        # The commit fails if something was erased or collected since the collection epoch was read.
        collection_epoch = await self.retry(self._catalog.collection_epoch)
        digests = await self._erasable_digests(batch)
        known = await self.retry(lambda: self._catalog.look_up(sorted(set().union(*digests.values()))))
        batch = without_erased(batch, digests, known.tombstones)
        with worker_step_seconds.labels(Step.BLOBS).time():
            bodies = await self._bodies.store(
                batch.kind, store_plan(batch.accepted, {digest.hex() for digest in known.blobs})
            )
        batch = batch.with_rejected(bodies.rejected)
        rows = row_batch(batch, bodies.stored_at, collection_epoch=collection_epoch)
        return StoredBatch(batch, rows)

    async def commit(self, rows: RowBatch) -> CommitResult:
        """Write the rows of a batch in one transaction.

        Raises:
            BlobsCollectedError: objects of the batch were collected since they were put: store the bodies again.
        """
        with worker_step_seconds.labels(Step.CATALOG).time():
            return await self.retry(lambda: self._catalog.commit(rows))

    async def discard_claims(self, batch: StoredBatch) -> None:
        """Delete the staged bodies of a committed batch; those that a crash leaves behind are collected later."""
        claims = [delivery.claim for delivery in batch.accepted if delivery.claim]
        for claim in [*claims, *erased_claims(batch.decoded)]:
            await self.retry(partial(self._staged.discard, claim))

    async def _erasable_digests(self, batch: DecodedBatch) -> ErasableDigests:
        # Values are hashed where something was erased at all.
        with_values = await self.retry(self._catalog.has_tombstones)
        size_bytes = sum(len(message.value or b"") for message in batch.messages) if with_values else 0
        return await in_thread_if_large(size_bytes, partial(erasable_digests, batch, with_values=with_values))

    async def _at_original_positions(self, messages: Sequence[ConsumedMessage]) -> Sequence[ConsumedMessage]:
        """Map redriven messages to the position of their first delivery."""
        ids = redrives_in(messages)
        if not ids:
            return messages
        originals = await self.retry(lambda: self._catalog.originals(ids))
        return [as_original(message, originals) for message in messages]

    def _examine(self, kind: Kind, messages: Sequence[ConsumedMessage]) -> DecodedBatch:
        return examine_batch(
            kind,
            messages,
            decoded=lambda: self.reached(CrashPoint.AFTER_DECODE),
            hashed=lambda: self.reached(CrashPoint.AFTER_HASH),
        )
