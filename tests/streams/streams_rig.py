"""A batch pipeline with its ingest on ports in memory, fed with messages as Faust would deliver them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from headrace.schemas.events import InputEvent, Kind
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.core.quota import Quota
from headrace.streams.worker.batch_pipeline import BatchPipeline, PipelineLimits
from headrace.streams.worker.group_commit import GroupCommit
from headrace.streams.worker.ingest import Ingest
from headrace.streams.worker.ports import IngestPorts
from headrace.streams.worker.retry import Retry, RetryPolicy
from tests.streams.streams_fakes import FakeBlobs, FakeCatalog, FakeClaims, FakeFetch, FakeProcess, Journal
from tests.streams.streams_samples import delivery, raw_delivery

QUICK = RetryPolicy(delay_s=0.001, delay_s_max=0.01, deadline_s=10.0)
HASTY = RetryPolicy(delay_s=0.001, delay_s_max=0.005, deadline_s=0.02)
ANSWER_S_MAX = 20.0  # of anything that a test waits for; it never comes to that


class Rig:
    """Offsets are given out in the order of the messages, from 0."""

    def __init__(
        self,
        kind: Kind = Kind.FRAME,
        *,
        policy: RetryPolicy = QUICK,
        dead_letter_quota: int = 10**6,
        batches_max: int = 4,
        messages_max: int = 1000,
        bytes_max: int = 10**9,
    ) -> None:
        self.kind = kind
        self.journal = Journal()
        self.blobs = FakeBlobs(self.journal)
        self.claims = FakeClaims(self.blobs)
        self.catalog = FakeCatalog(self.journal, self.blobs)
        self.process = FakeProcess()
        ports = IngestPorts(self.blobs, self.claims, self.catalog)
        self.ingest = Ingest(ports, retry=Retry(policy))
        self.quota = Quota(dead_letter_quota, 60.0)
        self.pipeline = BatchPipeline(
            kind,
            GroupCommit(self.ingest),
            limits=PipelineLimits(batches_max=batches_max, messages_max=messages_max, bytes_max=bytes_max),
            quota=self.quota,
            halt=self.process.halt,
        )
        self._offset = 0

    async def take(self, *messages: InputEvent | bytes | None) -> None:
        """Hand over some messages at once; bytes stand for a value that is no event."""
        async with asyncio.timeout(ANSWER_S_MAX):
            await self.pipeline.submit(FakeFetch(self.deliveries(messages), self.journal))

    def deliveries(self, messages: Sequence[InputEvent | bytes | None]) -> list[ConsumedMessage]:
        made = []
        for message in messages:
            made.append(self._delivery(message))
            self._offset += 1
        return made

    async def drain(self) -> None:
        async with asyncio.timeout(ANSWER_S_MAX):
            await self.pipeline.drain()

    async def run(self, *messages: InputEvent | bytes | None) -> None:
        """Hand over some messages at once and wait until they are acknowledged."""
        await self.take(*messages)
        await self.drain()

    async def ended(self) -> None:
        """Wait until the process has ended, and long enough for anything that would still run."""
        async with asyncio.timeout(ANSWER_S_MAX):
            await self.process.ended.wait()
        await settle()

    @property
    def acked(self) -> list[int]:
        return self.journal.of("ack")

    def _delivery(self, message: Any) -> ConsumedMessage:
        if isinstance(message, bytes | None):
            return raw_delivery(self.kind, message, offset=self._offset)
        return delivery(message, offset=self._offset)


async def settle() -> None:
    """Let everything run that can run without time passing."""
    for _ in range(200):
        await asyncio.sleep(0)


async def until_true(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(ANSWER_S_MAX):
        while not condition():  # noqa: ASYNC110 - what is waited for is not of this test's making
            await asyncio.sleep(0.001)


class Gate:
    """Holds up the steps that it names until it is opened."""

    def __init__(self, journal: Journal, what: str, *, only: Callable[[Any], bool] = lambda _to: True) -> None:
        self._what = what
        self._only = only
        self._open = asyncio.Event()
        self.held = 0
        journal.before = self._wait

    def open(self) -> None:
        self._open.set()

    def _wait(self, what: str, to: Any) -> Awaitable[None]:
        return self._held() if what == self._what and self._only(to) else _at_once()

    async def _held(self) -> None:
        self.held += 1
        await self._open.wait()


async def _at_once() -> None:
    return
