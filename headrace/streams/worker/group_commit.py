"""The transactions of a process: whatever is prepared while one commits goes together into the next one.

A lone batch is committed at once. Batches are committed in the order of the calls; where one of a group is refused, or
objects of it were collected, each of them gets a transaction of its own.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from headrace.schemas.catalog_rows import CommitResult, RowBatch
from headrace.schemas.reject import RejectCode
from headrace.store.errors import BlobsCollectedError, CatalogRefusedError
from headrace.streams.core.batch_plan import merged, one_by_one, results_of_each, row_batch
from headrace.streams.core.examine import DecodedBatch, RejectedDelivery, reject
from headrace.streams.worker.ingest import Ingest, StoredBatch

GROUP_ROWS_MAX = 4000  # of one transaction, or a single larger batch


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch as it was committed, and the result."""

    batch: StoredBatch
    result: CommitResult


_Waiting: TypeAlias = "tuple[StoredBatch, asyncio.Future[Committed]]"


class GroupCommit:
    """Commits the batches of a process, until one fails: then the process ends, and nothing is committed after it."""

    def __init__(self, ingest: Ingest) -> None:
        self.ingest = ingest
        self._failure: BaseException | None = None
        self._waiting: deque[_Waiting] = deque()
        self._committing: asyncio.Task[None] | None = None

    async def commit(self, batch: StoredBatch) -> Committed:
        """Commit a batch after those of earlier calls; raises what `Ingest.commit` raises."""
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, future))
        if self._committing is None:
            self._committing = asyncio.create_task(self._run(), name="group-commit-batch")
        return await future

    async def _run(self) -> None:
        group: list[_Waiting] = []
        try:
            while self._waiting:
                group = self._next_group()
                await self._commit_group(group)
        except BaseException as error:
            self._failure = error
            for _, future in (*group, *self._waiting):
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._committing = None

    def _next_group(self) -> list[_Waiting]:
        group = [self._waiting.popleft()]
        rows = _rows_of(group[0][0])
        while self._waiting and (rows := rows + _rows_of(self._waiting[0][0])) <= GROUP_ROWS_MAX:
            group.append(self._waiting.popleft())
        return group

    async def _commit_group(self, group: list[_Waiting]) -> None:
        together = merged([batch.rows for batch, _ in group]) if len(group) > 1 else None
        if together is not None and await self._commit_together(together, group):
            return
        for batch, future in group:
            _resolve(future, await commit_or_store_again(self.ingest, batch))

    async def _commit_together(self, together: RowBatch, group: list[_Waiting]) -> bool:
        """Commit a group in one transaction; return False where each of its batches has to be committed alone."""
        try:
            result = await self.ingest.commit(together)
        except BlobsCollectedError:
            return False
        except CatalogRefusedError as refused:
            if not refused.is_of_data:
                raise
            return False
        results = results_of_each([batch.rows for batch, _ in group], result)
        for (batch, future), own in zip(group, results, strict=True):
            _resolve(future, Committed(batch, own))
        return True


def _rows_of(batch: StoredBatch) -> int:
    return len(batch.rows.records) + len(batch.rows.dead_letters)


def _resolve(future: "asyncio.Future[Committed]", committed: Committed) -> None:
    if not future.done():  # the batch may have been cancelled meanwhile
        future.set_result(committed)


async def commit_or_store_again(ingest: Ingest, batch: StoredBatch) -> Committed:
    """Commit a batch; if objects of it were collected as orphans since they were put, store its bodies again first."""
    attempts = ingest.retry.attempts()
    decoded = batch.decoded
    while True:
        try:
            return await _commit(ingest, batch)
        except BlobsCollectedError as collected:
            await attempts.wait(collected)
        batch = await ingest.store_bodies(decoded)


async def _commit(ingest: Ingest, batch: StoredBatch) -> Committed:
    try:
        return Committed(batch, await ingest.commit(batch.rows))
    except CatalogRefusedError as refused:
        if not (refused.is_of_data and batch.accepted):
            raise
    # PostgreSQL does not say which row it refuses. What was committed before is not written twice.
    decoded, result = batch.decoded, CommitResult()
    for message, rows in one_by_one(decoded, batch.rows):
        rejections, single = await _commit_message(ingest, message, rows)
        decoded, result = decoded.with_rejected(rejections), result + single
    return Committed(StoredBatch(decoded, batch.rows), result)


async def _commit_message(
    ingest: Ingest, message: DecodedBatch, rows: RowBatch
) -> tuple[list[RejectedDelivery], CommitResult]:
    """Commit a batch of one message; where the catalog cannot hold its values, commit it as a dead letter."""
    try:
        return [], await ingest.commit(rows)
    except CatalogRefusedError as refused:
        if not (refused.is_of_data and message.accepted):
            raise
        reason = f"the catalog cannot hold it: error {refused.sqlstate} of PostgreSQL"
    rejections = [reject(delivery, RejectCode.UNDECODABLE, reason) for delivery in message.accepted]
    rows = row_batch(message.with_rejected(rejections), {}, collection_epoch=rows.collection_epoch)
    return rejections, await ingest.commit(rows)
