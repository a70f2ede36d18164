"""One topic's batches in flight: stored side by side, committed in order, finished last and in order.

Kafka stores one committed offset for each partition, which covers every message before it. So a batch is finished only
after the batch before it.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

from headrace.runtime import metrics
from headrace.runtime.crash_points import CrashPoint
from headrace.runtime.errors import Exit
from headrace.runtime.logs import Action, get_log
from headrace.schemas.catalog_rows import KEY_BYTES, Outcomes, SourceKey
from headrace.schemas.events import Kind
from headrace.schemas.limits import CLOCK_SET_US_MIN
from headrace.schemas.reject import RejectCode
from headrace.store.errors import CatalogRevertedError
from headrace.streams.core.delivery import ConsumedMessage, held_bytes
from headrace.streams.core.erased import is_out
from headrace.streams.core.examine import RejectedDelivery
from headrace.streams.core.quota import Quota
from headrace.streams.worker.group_commit import Committed, GroupCommit
from headrace.streams.worker.ingest import StoredBatch
from headrace.streams.worker.ports import FetchedBatch
from headrace.streams.worker.retry import HaltError

HaltProcess: TypeAlias = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """The most that one pipeline holds: batches in flight, messages of one batch, and bytes of all its messages."""

    batches_max: int
    messages_max: int
    bytes_max: int


class _Queued(NamedTuple):
    """A message, the bytes that it holds, and the batch that it was fetched with."""

    message: ConsumedMessage
    size_bytes: int
    fetched: FetchedBatch


class _RunningBatch:
    """A batch in flight: its task, and whether its turn to commit has come, or never comes."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_committing = False
        self.decided = asyncio.Event()


class BatchPipeline:
    """Takes in messages of one kind and ingests them in batches. `halt` ends the process and does not return.

    While fewer than `batches_max` batches are in flight, a submitted message starts at once; while all are busy,
    messages queue for the next batch, up to `messages_max`. So a lone message does not wait, and a backlog goes in full
    batches.
    """

    def __init__(
        self,
        kind: Kind,
        commits: GroupCommit,
        *,
        limits: PipelineLimits,
        quota: Quota,
        halt: HaltProcess,
    ) -> None:
        self._kind = kind
        self._ingest = commits.ingest
        self._commits = commits
        self._limits = limits
        self._quota = quota
        self._halt = halt
        self._queue: deque[_Queued] = deque()
        self._held_bytes = 0
        self._batches: list[_RunningBatch] = []
        self._batch_ended = asyncio.Event()
        self._closed = False

    async def submit(self, fetched: FetchedBatch) -> None:
        """Queue messages as the limits allow, and wait while they do not; a message over `bytes_max` goes alone.

        Only one agent may call this: batches are finished in the order of the calls.
        """
        for message in fetched.messages:
            size_bytes = held_bytes(message.key, message.value, message.headers)
            if not self._fits(size_bytes):
                self._start_batches()  # the queue gets shorter only once its messages are in flight
            while not self._fits(size_bytes):
                self._batch_ended.clear()
                await self._batch_ended.wait()
            self._queue.append(_Queued(message, size_bytes, fetched))
            self._held_bytes += size_bytes
        self._start_batches()

    async def drain(self) -> None:
        """Accept no further message, and wait until every accepted one is finished."""
        self._closed = True
        while self._batches:
            await asyncio.wait([batch.task for batch in self._batches if batch.task])

    def _fits(self, size_bytes: int) -> bool:
        if self._closed:
            return False
        if not self._queue and not self._batches:
            return True
        messages_fit = len(self._queue) < self._limits.messages_max
        return messages_fit and self._held_bytes + size_bytes <= self._limits.bytes_max

    def _start_batches(self) -> None:
        """Start batches from the queue while fewer than `batches_max` are in flight."""
        while self._queue and len(self._batches) < self._limits.batches_max:
            count = min(len(self._queue), self._limits.messages_max)
            queued = [self._queue.popleft() for _ in range(count)]
            previous = self._batches[-1] if self._batches else None
            batch = _RunningBatch()
            batch.task = asyncio.create_task(self._run_batch(batch, queued, previous), name=f"{self._kind}-batch")
            self._batches.append(batch)
            metrics.worker_batch_messages.labels(self._kind.value).observe(count)
            metrics.worker_batches_in_flight.labels(self._kind.value).inc()
            batch.task.add_done_callback(partial(self._on_batch_end, batch, sum(item.size_bytes for item in queued)))

    async def _run_batch(self, batch: _RunningBatch, queued: Sequence[_Queued], previous: _RunningBatch | None) -> None:
        """Decode a batch, store its bodies, commit its rows, and finish it."""
        started_s = time.monotonic()
        try:
            decoded = await self._ingest.decode(self._kind, [item.message for item in queued])
            stored = await self._ingest.store_bodies(decoded)
            if previous is not None:
                await _committing(previous)
            await self._check_quota(stored, previous)
            batch.is_committing = True
            batch.decided.set()
            committed = await self._commits.commit(stored)
            if previous is not None:
                await _ended(previous)
            report(self._kind, committed, started_s)
            self._ingest.reached(CrashPoint.BEFORE_ACK)
            finish(queued)
            await self._ingest.discard_claims(committed.batch)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing of the batch may be finished
            self._end(error)
        finally:
            batch.decided.set()

    async def _check_quota(self, stored: StoredBatch, previous: _RunningBatch | None) -> None:
        # Before the commit: messages over the quota stay in their topic, for a worker that understands them.
        # What was erased and comes again says nothing about a deploy or a source, and a site that claims another's name
        # must not stop the others.
        bad = Counter(_source_of(rejection) for rejection in stored.rejected if not _is_no_fault_of_ours(rejection))
        if self._quota.exceeded(time.monotonic(), Outcomes(len(stored.accepted), bad)):
            if previous is not None:
                await _ended(previous)
            raise HaltError(
                Exit.QUOTA,
                f"more than {self._quota.dead_letters_max} messages of several sources of {self._kind} rejected within "
                f"{self._quota.window_s:.0f} s, and more than were accepted; "
                "a bad deploy is more likely than bad sources",
            )

    def _end(self, error: BaseException) -> None:
        # A group holds the faults of parallel PUTs; they have one cause, so the first is reported.
        root = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        if isinstance(root, HaltError | CatalogRevertedError):
            self._halt(root.exit_code, str(root))
        else:
            get_log().error(Action.HALTED, kind=self._kind.value, exc_info=root)
            self._halt(Exit.BROKEN, f"{type(root).__name__}: {root}")

    def _on_batch_end(self, batch: _RunningBatch, size_bytes: int, task: "asyncio.Task[None]") -> None:
        self._batches.remove(batch)
        self._held_bytes -= size_bytes
        metrics.worker_batches_in_flight.labels(self._kind.value).dec()
        if task.cancelled():
            # The process is ending, and nothing may be finished after a batch that was not.
            self._closed = True
            self._queue.clear()
            return
        self._start_batches()
        self._batch_ended.set()


def finish(queued: Iterable[_Queued]) -> None:
    """Finish messages that are durable, in the order of their batches."""
    ends = {id(item.fetched): (item.fetched, item.message.offset + 1) for item in queued}
    for fetched, next_offset in ends.values():
        fetched.finish(next_offset)


def _is_no_fault_of_ours(rejected: RejectedDelivery) -> bool:
    return is_out(rejected) or rejected.code is RejectCode.FOREIGN_SITE


def _source_of(rejected: RejectedDelivery) -> SourceKey:
    if rejected.origin is not None:
        return rejected.origin.site, rejected.origin.source_id
    return (rejected.message.key or b"")[:KEY_BYTES]


async def _committing(batch: _RunningBatch) -> None:
    """Wait until it is this batch's turn to commit; the next one follows it."""
    await batch.decided.wait()
    if not batch.is_committing:
        raise asyncio.CancelledError


async def _ended(batch: _RunningBatch) -> None:
    assert batch.task is not None
    await asyncio.wait([batch.task])
    if batch.task.cancelled():
        raise asyncio.CancelledError


def report(kind: Kind, committed: Committed, started_s: float) -> None:
    """Count and log the outcome of a batch."""
    stored, duplicates = committed.batch, committed.result.duplicates
    metrics.worker_deliveries_total.labels(kind.value, "stored").inc(len(committed.result.new_records))
    metrics.worker_deliveries_total.labels(kind.value, "duplicate").inc(duplicates)
    metrics.worker_deliveries_total.labels(kind.value, "rejected").inc(len(stored.rejected))
    unset_clocks = sum(delivery.event.captured_at_us < CLOCK_SET_US_MIN for delivery in stored.accepted)
    metrics.worker_unset_clock_total.labels(kind.value).inc(unset_clocks)
    metrics.worker_bytes_total.labels(kind.value).inc(sum(delivery.size_bytes for delivery in stored.accepted))
    metrics.worker_source_losses_total.labels("dropped").inc(committed.result.newly_dropped)
    metrics.worker_source_losses_total.labels("damaged").inc(committed.result.newly_damaged)
    if committed.result.newly_dropped or committed.result.newly_damaged:
        get_log().error(
            Action.LOST,
            kind=kind.value,
            dropped=committed.result.newly_dropped,
            damaged=committed.result.newly_damaged,
            why="spools of sources report events that they could not keep",
            hint="`headrace lost` lists them by source; docs/runbook.md, Sources lost events",
        )
    for code, count in Counter(rejection.code for rejection in stored.rejected).items():
        metrics.worker_rejected_total.labels(kind.value, code.value).inc(count)
        first = next(rejection for rejection in stored.rejected if rejection.code is code)
        # One line for each code of a batch: a faulty source must not fill the disk with logs.
        get_log().warning(
            Action.REJECTED,
            code=code.value,
            count=count,
            reason=first.reason,
            topic=first.message.topic,
            partition=first.message.partition,
            offset=first.message.offset,
        )
    get_log().debug(
        Action.BATCH_STORED,
        kind=kind.value,
        stored=len(committed.result.new_records),
        duplicates=duplicates,
        rejected=len(stored.rejected),
        seconds=round(time.monotonic() - started_s, 3),
    )
