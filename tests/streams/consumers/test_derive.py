"""The shipped consumers against a real Kafka and a real store."""

import asyncio
import random
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import UUID

import pytest

from headrace.runtime.settings import Settings
from headrace.schemas.digest import result_id
from headrace.schemas.events import PerceivedFrame, PreprocessedFrame
from headrace.schemas.headers import traceparent_of
from headrace.store.blobs.blob_store import Blobs
from headrace.streams.consumers.app import CONSUMERS
from headrace.streams.consumers.group_consumer import GroupConsumer, PolledBatch
from tests.processes import ServiceProcess, free_port
from tests.streams.consumers.consumer_samples import ResultReader, ingest, moving_block, new_name, results_of
from tests.waiting import until, until_async

pytestmark = pytest.mark.stack


async def test_preprocessing_says_something_of_every_frame(settings: Settings, blobs: Blobs):
    site = new_name("site")
    sent = await ingest(settings, blobs, [*moving_block(9), b"no picture"], site=site)
    results = ResultReader(settings, "preprocessed.frames.v1", PreprocessedFrame, site)
    await results_of("preprocessing", settings, results, 10)
    by_record = {result.record_id: result for result in results.results}
    for event in sent[:9]:
        result = by_record[event.record_id]
        assert result.error is None
        assert result.event_id == str(result_id("preprocessing", UUID(event.record_id), UUID(event.event_id)))
        assert (result.width, result.height, result.thumbnail_width) == (320, 180, 320)
        thumbnail = await blobs.get(result.thumbnail_key)
        assert thumbnail.startswith(b"\xff\xd8")
    assert by_record[sent[9].record_id].error is not None
    assert all(traceparent_of(message.headers()) for message in results.messages)
    assert all(
        message.key() == result.source_id.encode()
        for message, result in zip(results.messages, results.results, strict=True)
    )
    results.close()


async def test_perception_compares_each_frame_with_its_sources_frame_before(settings: Settings, blobs: Blobs):
    site = new_name("site")
    sent = await ingest(settings, blobs, [body for body in moving_block(6) for _ in range(2)], site=site, sources=2)
    perceived = ResultReader(settings, "perceived.frames.v1", PerceivedFrame, site)
    await results_of("perception", settings, perceived, 12)
    by_source = defaultdict(list)
    for result in perceived.results:
        by_source[result.source_id].append(result)
    assert [len(results) for results in by_source.values()] == [6, 6]
    for results in by_source.values():
        assert results[0].previous_digest is None
        for before, result in pairwise(results):
            assert result.previous_digest == before.digest
            assert result.score > 0
            assert 1 <= len(result.regions) <= 2
    assert {result.record_id for result in perceived.results} == {event.record_id for event in sent}
    perceived.close()


@pytest.mark.slow
async def test_results_are_said_once_although_the_consumer_is_killed(settings: Settings, blobs: Blobs, tmp_path: Path):
    site = new_name("site")
    results = ResultReader(settings, "preprocessed.frames.v1", PreprocessedFrame, site)
    body = moving_block(1)[0]
    process = ServiceProcess(
        settings, "consumer", "preprocessing", log=tmp_path / "log", consumer_events_max=16, kafka_session_s=6
    )
    process.wait_ready()
    for first in range(0, 600, 200):
        await ingest(settings, blobs, [body] * 200, site=site, sources=8, first=first)
        await asyncio.sleep(random.uniform(0.1, 0.6))
        process.kill()
        process.restart()
    until(lambda: results.more() >= 600, 90, "600 results")
    assert process.stop() == 0
    results.more()
    assert len(results.results) == 600
    assert len({result.event_id for result in results.results}) == 600
    results.close()


async def test_a_member_that_is_given_nothing_while_frames_wait_is_not_alive(
    settings: Settings, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
):
    async def nothing(_consumer: GroupConsumer, _events_max: int) -> PolledBatch:
        await asyncio.sleep(0.1)
        return PolledBatch()

    monkeypatch.setattr(GroupConsumer, "poll", nothing)
    await ingest(settings, blobs, moving_block(3), site=new_name("site"))
    port = free_port()
    watched = settings.model_copy(update={"watchdog_s": 20.0, "health_port": port})
    stop = asyncio.Event()
    running = asyncio.create_task(CONSUMERS["preprocessing"](watched, stop))
    try:
        await until_async(lambda: _says(port, 503), 19, "/livez to say that nothing moves")
    finally:
        stop.set()
        assert await asyncio.wait_for(running, 20) == 0


async def _says(port: int, status: int) -> bool:
    def ask() -> int:
        try:
            with urlopen(f"http://127.0.0.1:{port}/livez", timeout=2) as answer:
                return answer.status
        except HTTPError as error:
            return error.code
        except OSError:
            return 0

    return await asyncio.to_thread(ask) == status
