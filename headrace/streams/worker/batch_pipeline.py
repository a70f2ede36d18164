"""One topic's batches in flight: stored side by side, committed one after another, acknowledged last and in order.

Kafka stores one committed offset for each partition, which covers every message before it. So a batch is acknowledged
only after the batch before it, and its events in the order in which they came, without an `await` in between.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from headrace.runtime import metrics
from headrace.runtime.crash_points import CrashPoint
from headrace.runtime.errors import Exit
from headrace.runtime.logs import Action, get_log
from headrace.schemas.catalog_rows import KEY_BYTES, CommitResult, Outcomes, SourceKey
from headrace.schemas.events import Kind
from headrace.schemas.limits import CLOCK_SET_US_MIN
from headrace.schemas.reject import RejectCode
from headrace.store.errors import BlobsCollectedError, CatalogRefusedError, CatalogRevertedError
from headrace.streams.core.batch_plan import one_by_one, row_batch
from headrace.streams.core.delivery import ConsumedMessage, HeaderPairs, held_bytes
from headrace.streams.core.erased import is_out
from headrace.streams.core.examine import DecodedBatch, RejectedDelivery, reject
from headrace.streams.core.quota import Quota
from headrace.streams.worker.ingest import Ingest, StoredBatch
from headrace.streams.worker.ports import StreamEvent, StreamMessage
from headrace.streams.worker.retry import HaltError

_INT64_MAX = 2**63 - 1  # a producer's own time may be any number of milliseconds; the catalog holds microseconds

HaltProcess: TypeAlias = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """The most that one pipeline holds: batches in flight, messages of one batch, and bytes of all its messages."""

    batches_max: int
    messages_max: int
    bytes_max: int


class BatchPipeline:
    """Takes in events of one kind and ingests them in batches. `halt` ends the process and does not return.

    While fewer than `batches_max` batches are in flight, a submitted event starts at once; while all are busy, events
    queue for the next batch, up to `messages_max`. So a lone event does not wait, and a backlog goes in full batches.
    """

    def __init__(
        self,
        kind: Kind,
        ingest: Ingest,
        *,
        limits: PipelineLimits,
        quota: Quota,
        halt: HaltProcess,
    ) -> None:
        self._kind = kind
        self._ingest = ingest
        self._limits = limits
        self._quota = quota
        self._halt = halt
        self._queue: deque[tuple[StreamEvent, int]] = deque()  # each with the bytes that it holds
        self._held_bytes = 0
        self._batches: list[asyncio.Task[None]] = []
        self._batch_ended = asyncio.Event()
        self._closed = False

    async def submit(self, events: Sequence[StreamEvent]) -> None:
        """Queue events as the limits allow, and wait while they do not; an event over `bytes_max` goes alone.

        Only one agent may call this: the order of the calls is the order of the acknowledgements.
        """
        for event in events:
            size_bytes = size_of(event.message)
            if not self._fits(size_bytes):
                self._start_batches()  # the queue gets shorter only once its events are in flight
            while not self._fits(size_bytes):
                self._batch_ended.clear()
                await self._batch_ended.wait()
            self._queue.append((event, size_bytes))
            self._held_bytes += size_bytes
        self._start_batches()

    async def drain(self) -> None:
        """Accept no further event, and wait until every accepted one is acknowledged."""
        self._closed = True
        while self._batches:
            await asyncio.wait(list(self._batches))

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
            events, sizes_bytes = zip(*(self._queue.popleft() for _ in range(count)), strict=True)
            previous = self._batches[-1] if self._batches else None
            task = asyncio.create_task(self._run_batch(events, previous), name=f"{self._kind}-batch")
            self._batches.append(task)
            metrics.worker_batch_messages.labels(self._kind.value).observe(count)
            metrics.worker_batches_in_flight.labels(self._kind.value).inc()
            task.add_done_callback(partial(self._on_batch_end, sum(sizes_bytes)))

    async def _run_batch(self, events: Sequence[StreamEvent], previous: "asyncio.Task[None] | None") -> None:
        """Decode a batch, store its bodies, commit its rows, and acknowledge it."""
        started_s = time.monotonic()
        try:
            decoded = await self._ingest.decode(self._kind, [delivery_of(event.message) for event in events])
            stored = await self._ingest.store_bodies(decoded)
            if previous is not None:
                await _ended(previous)
            self._check_quota(stored)
            stored, committed = await commit_or_store_again(self._ingest, decoded, stored)
            report(self._kind, stored, committed, started_s)
            self._ingest.reached(CrashPoint.BEFORE_ACK)
            for event in events:
                event.ack()
            await self._ingest.discard_claims(stored)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing of the batch may be acknowledged
            self._end(error)

    def _check_quota(self, stored: StoredBatch) -> None:
        # Before the commit: messages over the quota stay in their topic, for a worker that understands them.
        # What was erased and comes again says nothing about a deploy or a source.
        bad = Counter(_source_of(rejection) for rejection in stored.rejected if not is_out(rejection))
        if self._quota.exceeded(time.monotonic(), Outcomes(len(stored.accepted), bad)):
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

    def _on_batch_end(self, size_bytes: int, task: "asyncio.Task[None]") -> None:
        self._batches.remove(task)
        self._held_bytes -= size_bytes
        metrics.worker_batches_in_flight.labels(self._kind.value).dec()
        if task.cancelled():
            # The process is ending, and nothing may be acknowledged after a batch that was not finished.
            self._closed = True
            self._queue.clear()
            return
        self._start_batches()
        self._batch_ended.set()


def _source_of(rejected: RejectedDelivery) -> SourceKey:
    if rejected.origin is not None:
        return rejected.origin.site, rejected.origin.source_id
    return (rejected.message.key or b"")[:KEY_BYTES]


async def commit_or_store_again(
    ingest: Ingest, decoded: DecodedBatch, stored: StoredBatch
) -> tuple[StoredBatch, CommitResult]:
    """Commit a batch; if objects of it were collected as orphans since they were put, store its bodies again first.

    Returns the batch as it was committed, and the result.
    """
    attempts = ingest.retry.attempts()
    while True:
        try:
            return await _commit(ingest, stored)
        except BlobsCollectedError as collected:
            await attempts.wait(collected)
        stored = await ingest.store_bodies(decoded)


async def _commit(ingest: Ingest, stored: StoredBatch) -> tuple[StoredBatch, CommitResult]:
    try:
        return stored, await ingest.commit(stored)
    except CatalogRefusedError as refused:
        if not (refused.is_of_data and stored.accepted):
            raise
    # PostgreSQL does not say which row it refuses. What was committed before is not written twice.
    decoded, committed = stored.decoded, CommitResult()
    for message, rows in one_by_one(decoded, stored.rows):
        rejections, result = await _commit_message(ingest, StoredBatch(message, rows))
        decoded, committed = decoded.with_rejected(rejections), committed + result
    return StoredBatch(decoded, stored.rows), committed


async def _commit_message(ingest: Ingest, stored: StoredBatch) -> tuple[list[RejectedDelivery], CommitResult]:
    """Commit a batch of one message; where the catalog cannot hold its values, commit it as a dead letter."""
    try:
        return [], await ingest.commit(stored)
    except CatalogRefusedError as refused:
        if not (refused.is_of_data and stored.accepted):
            raise
        reason = f"the catalog cannot hold it: error {refused.sqlstate} of PostgreSQL"
    rejections = [reject(delivery, RejectCode.UNDECODABLE, reason) for delivery in stored.accepted]
    decoded = stored.decoded.with_rejected(rejections)
    rows = row_batch(decoded, {}, collection_epoch=stored.rows.collection_epoch)
    return rejections, await ingest.commit(StoredBatch(decoded, rows))


async def _ended(previous: "asyncio.Task[None]") -> None:
    await asyncio.wait([previous])
    if previous.cancelled():
        raise asyncio.CancelledError


def report(kind: Kind, stored: StoredBatch, committed: CommitResult, started_s: float) -> None:
    """Count and log the outcome of a batch."""
    duplicates = committed.duplicates
    metrics.worker_deliveries_total.labels(kind.value, "stored").inc(len(committed.new_records))
    metrics.worker_deliveries_total.labels(kind.value, "duplicate").inc(duplicates)
    metrics.worker_deliveries_total.labels(kind.value, "rejected").inc(len(stored.rejected))
    unset_clocks = sum(delivery.event.captured_at_us < CLOCK_SET_US_MIN for delivery in stored.accepted)
    metrics.worker_unset_clock_total.labels(kind.value).inc(unset_clocks)
    metrics.worker_bytes_total.labels(kind.value).inc(sum(delivery.size_bytes for delivery in stored.accepted))
    metrics.worker_source_losses_total.labels("dropped").inc(committed.newly_dropped)
    metrics.worker_source_losses_total.labels("damaged").inc(committed.newly_damaged)
    if committed.newly_dropped or committed.newly_damaged:
        get_log().error(
            Action.LOST,
            kind=kind.value,
            dropped=committed.newly_dropped,
            damaged=committed.newly_damaged,
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
        stored=len(committed.new_records),
        duplicates=duplicates,
        rejected=len(stored.rejected),
        seconds=round(time.monotonic() - started_s, 3),
    )


def size_of(message: StreamMessage) -> int:
    """Return the bytes that a message holds in memory."""
    return held_bytes(message.key, message.value, _pairs(message.headers))


def delivery_of(message: StreamMessage) -> ConsumedMessage:
    """Return Faust's message as a plain value."""
    return ConsumedMessage(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_us=max(-_INT64_MAX, min(round((message.timestamp or 0) * 1_000_000), _INT64_MAX)),
        key=message.key,
        value=message.value,
        headers=_pairs(message.headers),
    )


def _pairs(headers: object) -> HeaderPairs:
    if not headers:
        return ()
    items = headers.items() if isinstance(headers, dict) else headers
    return tuple((str(name), value or b"") for name, value in items)  # type: ignore[attr-defined]
