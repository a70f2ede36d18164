"""What a batch costs on any machine: tasks, PUTs, copies of a body, transactions.

Each bound is the present figure. A change that raises one says why; one that lowers it lowers the bound as well.
"""

import asyncio
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from headrace.schemas.codec import encode
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.streams.core.quota import Quota
from headrace.streams.worker.batch_pipeline import BatchPipeline, PipelineLimits
from headrace.streams.worker.faust.record_reader import RecordReader
from headrace.streams.worker.group_commit import GroupCommit
from headrace.streams.worker.ingest import Ingest
from headrace.streams.worker.ports import IngestPorts
from headrace.streams.worker.retry import Retry
from tests.streams.streams_batches import raw_batch
from tests.streams.streams_fakes import FakeBlobs, FakeCatalog, FakeClaims, FakeFetch, FakeProcess, Journal
from tests.streams.streams_rig import QUICK, Gate, Rig, until_true
from tests.streams.streams_samples import frame, ldo, png, raw_delivery

LDOS = 500
FRAMES = 20
BODIES = 4  # of one of Kafka's batches
BODY_BYTES = 200_000

# Of a batch of so many messages.
TASKS_BESIDE_PUTS_MAX = 2  # the batch, and its transaction
PUTS_A_FRAME_MAX = 1
PUTS_OF_LDOS_MAX = 1
COPIES_OF_A_FRAME_MAX = 2  # from Kafka's batch to its message, and from that to its body
TRANSACTIONS_OF_A_BACKLOG_MAX = 3  # of 2,000 messages that came while one was under way


@contextmanager
def counted_tasks() -> Iterator[list[str]]:
    """Note the coroutine of each task that is started."""
    started: list[str] = []
    loop = asyncio.get_running_loop()

    def start(of: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> "asyncio.Task[Any]":
        started.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=of, **more)

    loop.set_task_factory(start)
    try:
        yield started
    finally:
        loop.set_task_factory(None)


class LargeAllocations:
    """Sums the allocations of at least `bytes_min` within its context, also of what is freed again."""

    def __init__(self, bytes_min: int) -> None:
        self.total_bytes = 0
        self._bytes_min = bytes_min
        self._before = 0

    def __enter__(self) -> Self:
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        tracemalloc.stop()

    def _look(self, *_: object) -> None:
        """Look after each call of a function: the peak since the last one is what it took at once."""
        now, peak = tracemalloc.get_traced_memory()
        if peak - self._before >= self._bytes_min:
            self.total_bytes += peak - self._before
        tracemalloc.reset_peak()
        self._before = now


def rig_with(blobs: Any, kind: Kind, journal: Journal) -> BatchPipeline:
    """A pipeline whose ports do as little as they can."""
    claims = FakeClaims(FakeBlobs(journal))
    ingest = Ingest(IngestPorts(blobs, claims, FakeCatalog(journal, None)), retry=Retry(QUICK))
    limits = PipelineLimits(batches_max=4, messages_max=2000, bytes_max=10**9)
    quota = Quota(10**6, 60.0)
    return BatchPipeline(kind, GroupCommit(ingest), limits=limits, quota=quota, halt=FakeProcess().halt)


async def test_a_batch_of_ldos_takes_a_few_tasks_and_one_put() -> None:
    rig = Rig(Kind.LDO)
    with counted_tasks() as tasks:
        await rig.run(*(ldo(f"L-{number}") for number in range(LDOS)))
    puts = len(rig.journal.of("put"))
    assert puts <= PUTS_OF_LDOS_MAX
    assert len(tasks) - puts <= TASKS_BESIDE_PUTS_MAX, tasks


async def test_a_batch_of_frames_takes_one_put_each() -> None:
    rig = Rig()
    with counted_tasks() as tasks:
        await rig.run(*(frame(png(shade=shade)) for shade in range(FRAMES)))
    puts = len(rig.journal.of("put"))
    assert puts <= PUTS_A_FRAME_MAX * FRAMES
    assert len(tasks) - puts <= TASKS_BESIDE_PUTS_MAX, tasks


async def test_a_known_frame_takes_no_put() -> None:
    rig = Rig()
    frames = [frame(png(shade=shade)) for shade in range(FRAMES)]
    await rig.take(*frames)
    await until_true(lambda: len(rig.acked) == FRAMES)
    await rig.run(*frames)
    assert len(rig.journal.of("put")) == FRAMES


async def test_what_comes_while_a_transaction_runs_shares_the_next_ones() -> None:
    rig = Rig(Kind.LDO, messages_max=2000)
    gate = Gate(rig.journal, "commit")
    submitted = asyncio.create_task(_submit_fetches(rig, fetches=20))
    await until_true(lambda: gate.held == 1)
    await until_true(submitted.done)
    gate.open()
    await rig.drain()
    transactions = rig.journal.of("commit")
    assert sum(map(len, transactions)) == 2100
    assert len(transactions) - 1 <= TRANSACTIONS_OF_A_BACKLOG_MAX, [len(offsets) for offsets in transactions]


async def _submit_fetches(rig: Rig, *, fetches: int) -> None:
    for fetch in range(fetches + 1):
        await rig.take(*(ldo(f"L-{fetch}-{number}") for number in range(100)))


def _fetched(journal: Journal, raw: memoryview) -> FakeFetch:
    """Read a batch as the consumer does."""
    records = RecordReader(record_bytes_max=10**7, batch_bytes_max=10**8).read(raw)
    messages = [raw_delivery(Kind.FRAME, record.value, offset=record.offset) for record in records]
    return FakeFetch(messages, journal)


async def _copies_of_each(folder: Path, change: Callable[[FakeFetch], FakeFetch] = lambda fetched: fetched) -> float:
    bodies = [frame(png(shade=shade, padding_bytes=BODY_BYTES)) for shade in range(BODIES)]
    raw = memoryview(raw_batch([(encode(event), []) for event in bodies]))
    journal = Journal()
    pipeline = rig_with(Blobs.open(f"file://{folder}"), Kind.FRAME, journal)
    with LargeAllocations(BODY_BYTES) as allocations:
        await pipeline.submit(change(_fetched(journal, raw)))
        await pipeline.drain()
    assert len(journal.of("ack")) == BODIES
    return allocations.total_bytes / (BODIES * BODY_BYTES)


async def test_a_body_is_copied_no_more_often_than_it_must_be(tmp_path: Path) -> None:
    assert await _copies_of_each(tmp_path) == pytest.approx(COPIES_OF_A_FRAME_MAX, abs=0.1)


async def test_a_further_copy_of_each_body_is_noticed(tmp_path: Path) -> None:
    def copied(fetched: FakeFetch) -> FakeFetch:
        for message in fetched.messages:
            assert message.value
            message.value.swapcase()
        return fetched

    assert await _copies_of_each(tmp_path, copied) == pytest.approx(COPIES_OF_A_FRAME_MAX + 1, abs=0.1)
