"""`consume` against a real Kafka and a real store."""

import asyncio
from collections import Counter, defaultdict

import pytest
from confluent_kafka import Producer

from headrace import consume
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.events import Ingested
from headrace.store.blobs.blob_store import Blobs
from headrace.streams.consumers import Body
from tests.streams.consumers.consumer_samples import TOPIC, ingest, new_name
from tests.waiting import until_async

pytestmark = pytest.mark.stack


class Member:
    """One process's worth of consuming: remembers what came from its site, stops after `until` events."""

    def __init__(self, settings: Settings, group: str, site: str, until: int, handle=None) -> None:
        self.stop = asyncio.Event()
        self.seen: list[Ingested] = []
        self._site, self._until, self._handle = site, until, handle
        self.task = asyncio.create_task(consume(["frame"], group, self._take, settings=settings, stop=self.stop))

    async def _take(self, event: Ingested, body: Body) -> None:
        if event.site != self._site:
            return
        if self._handle is not None:
            await self._handle(event, body)
        self.seen.append(event)
        if len(self.seen) == self._until:
            self.stop.set()

    async def ended(self, seconds: float = 40) -> list[Ingested]:
        await asyncio.wait_for(self.task, seconds)
        return self.seen


async def test_each_record_comes_once_in_its_sources_order_with_its_bytes(settings: Settings, blobs: Blobs):
    site, group = new_name("site"), new_name("group")
    bodies = [f"{site} {number}".encode() for number in range(300)]
    sent = await ingest(settings, blobs, bodies, site=site)
    read = {}

    async def keep(event: Ingested, body: Body) -> None:
        read[event.event_id] = await body.read()

    seen = await Member(settings, group, site, 300, keep).ended()
    assert {event.event_id for event in seen} == {event.event_id for event in sent}
    assert sorted(read.values()) == sorted(bodies)
    by_source = defaultdict(list)
    for event in seen:
        by_source[event.source_id].append(event.sequence)
    assert all(sequences == sorted(sequences) for sequences in by_source.values())

    # Nothing is repeated to the same group, and what comes next comes.
    await ingest(settings, blobs, [b"next"], site=site, first=300)
    assert [event.sequence for event in await Member(settings, group, site, 1).ended()] == [300]


async def test_a_failure_past_the_deadline_ends_it_and_is_where_it_begins_again(settings: Settings, blobs: Blobs):
    site, group = new_name("site"), new_name("group")
    await ingest(settings, blobs, [f"{site}{number}".encode() for number in range(20)], site=site, sources=1)
    hasty = settings.model_copy(update={"processing_deadline_s": 0.3, "retry_delay_s": 0.05})
    calls = Counter()

    async def fail_at_seven(event: Ingested, _body: Body) -> None:
        calls[event.sequence] += 1
        if event.sequence == 7:
            raise ValueError("the model is not ready")

    first = Member(hasty, group, site, 20, fail_at_seven)
    with pytest.raises(ValueError, match="the model is not ready"):
        await first.ended()
    assert [event.sequence for event in first.seen] == list(range(7))
    assert calls[7] > 1
    second = await Member(settings, group, site, 13).ended()
    assert [event.sequence for event in second] == list(range(7, 20))


async def test_garbage_on_the_topic_is_passed_over(settings: Settings, blobs: Blobs):
    site, group = new_name("site"), new_name("group")
    await ingest(settings, blobs, [b"before"], site=site, sources=1)
    producer = Producer(client_config(settings))
    for value in (b"garbage", None, b"\x00\x00\x00\x00\x01rest"):
        producer.produce(TOPIC, value, f"{site}-camera-0".encode())
    assert producer.flush(30) == 0
    await ingest(settings, blobs, [b"after"], site=site, sources=1, first=1)
    assert [event.sequence for event in await Member(settings, group, site, 2).ended()] == [0, 1]


async def test_members_share_the_work_and_one_that_leaves_loses_nothing(settings: Settings, blobs: Blobs):
    site, group = new_name("site"), new_name("group")
    few = settings.model_copy(update={"consumer_events_max": 8})

    async def slowly(_event: Ingested, _body: Body) -> None:
        await asyncio.sleep(0.005)

    first, other = Member(few, group, site, 10_000, slowly), Member(few, group, site, 60, slowly)
    sent = await ingest(settings, blobs, [f"{site}{number}".encode() for number in range(600)], site=site, sources=16)
    await until_async(lambda: len({event.event_id for event in first.seen + other.seen}) == 600, 60, "600 events")
    first.stop.set()
    other.stop.set()
    counts = Counter(event.event_id for event in await first.ended() + await other.ended())
    assert set(counts) == {event.event_id for event in sent}
    assert first.seen
    assert max(counts.values()) == 1, "a partition changed hands before what was handled was committed"


async def test_a_kind_that_does_not_exist_is_named(settings: Settings):
    async def never(_event: Ingested, _body: Body) -> None:
        raise AssertionError

    with pytest.raises(HeadraceError, match="kind_unknown"):
        await consume(["photo"], "group", never, settings=settings)


async def test_an_absent_kafka_is_named(settings: Settings):
    async def never(_event: Ingested, _body: Body) -> None:
        raise AssertionError

    away = settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1", "start_wait_s_max": 0.0})
    with pytest.raises(HeadraceError, match="kafka_unreachable"):
        await consume("frame", "group", never, settings=away)
