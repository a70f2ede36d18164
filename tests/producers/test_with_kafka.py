"""The same, against a real broker: what arrives there, and in which order."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from headrace.producers import Acknowledged, Camera, Device, Publisher, describe_frame
from headrace.producers.source import Source
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Cid, Clip, Frame
from headrace.schemas.headers import traceparent_of
from headrace.schemas.limits import INLINE_BYTES_MAX, MIB
from headrace.store.blobs.blob_store import Blobs
from tests.processes import environment_of
from tests.producers.sample_media import image, write_video

pytestmark = pytest.mark.stack


@pytest.fixture
def publisher(stack_settings: Settings) -> Iterator[Publisher]:
    with Publisher.from_settings(stack_settings) as opened:
        yield opened


@pytest.fixture
def source() -> str:
    return f"cam-{uuid4().hex[:8]}"


def read(settings: Settings, at: Acknowledged) -> Message:
    consumer = Consumer(client_config(settings, group_id=f"test-{uuid4().hex}"))
    try:
        consumer.assign([TopicPartition(at.topic, at.partition, at.offset)])
        message = consumer.poll(20)
        assert message is not None
        assert message.error() is None
        return message
    finally:
        consumer.close()


def test_what_is_acknowledged_is_in_the_topic(publisher: Publisher, stack_settings: Settings, source: str):
    device = Device(publisher, source, "halle 1")
    at = device.scan("C-1").result(20)
    message = read(stack_settings, at)
    event = decode(message.value(), Cid)
    headers = dict(message.headers() or [])
    assert (event.code, event.source_id, event.site) == ("C-1", source, "halle 1")
    assert message.key() == source.encode()
    assert headers["ce_subject"] == at.digest.encode()
    assert headers["ce_type"] == b"headrace.cid.v1"
    assert traceparent_of(message.headers() or []) is not None


def test_a_trace_that_is_given_goes_on(publisher: Publisher, stack_settings: Settings, source: str):
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    event = describe_frame(image(1), Source(source, "default").origin())
    message = read(stack_settings, publisher.publish(event, traceparent=trace).result(20))
    assert traceparent_of(message.headers() or []) == trace
    assert decode(message.value(), Frame) == event


def test_bodies_of_every_size_arrive(publisher: Publisher, stack_settings: Settings, source: str):
    origins = Source(source, "default")
    for size_bytes in (1, 250_000, MIB, INLINE_BYTES_MAX):
        body = image(1) + os.urandom(size_bytes)
        body = body[:INLINE_BYTES_MAX]
        at = publisher.publish(describe_frame(body, origins.origin())).result(20)
        event = decode(read(stack_settings, at).value(), Frame)
        assert (event.body, at.digest) == (body, sha256_hex(body))


async def test_a_body_above_the_inline_limit_is_claimed(
    publisher: Publisher, stack_settings: Settings, blobs: Blobs, source: str
):
    body = image(1) + os.urandom(INLINE_BYTES_MAX)
    at = publisher.publish(describe_frame(body, Source(source, "default").origin())).result(60)
    event = decode(read(stack_settings, at).value(), Frame)
    assert event.body is None
    assert event.claim is not None
    assert sha256_hex(await blobs.get(event.claim)) == event.sha256 == at.digest


def test_a_source_stays_in_order_and_in_its_partition(publisher: Publisher, source: str):
    # More than one batch of the topic with the smallest limit: a batch above that would be refused.
    device = Device(publisher, source)
    deliveries = [device.scan(f"C-{number}-" + "x" * 3000) for number in range(1000)]
    assert publisher.flush(60) == 0
    places = [delivery.result(0) for delivery in deliveries]
    assert len({place.partition for place in places}) == 1
    offsets = [place.offset for place in places]
    assert offsets == list(range(offsets[0], offsets[0] + 1000))


def test_ldos_of_every_size_are_batched_within_the_topics_limit(publisher: Publisher, source: str):
    device = Device(publisher, source)
    for size_bytes in (100, 100_000, 900_000, 100):
        device.report("l-1", sensor_data={"x": "y" * size_bytes}, context={}, prediction={})
    assert publisher.flush(60) == 0


def test_a_camera_and_its_codes_and_clips_arrive(
    publisher: Publisher, stack_settings: Settings, source: str, tmp_path: Path
):
    video = write_video(tmp_path / "v.mp4", 6, codes={"C-1": (2, 3)})
    seen = []
    camera = Camera(
        publisher, video, source, clip_on_code=True, on_published=lambda event, at: seen.append((event, at))
    )
    report = camera.run()
    assert (report.frames, report.codes, report.clips, report.acknowledged, report.failed) == (60, 1, 1, 62, 0)
    for event, delivery in seen:
        if isinstance(event, Clip | Cid):
            assert decode(read(stack_settings, delivery.result(0)).value(), type(event)) == event


def test_the_command_publishes_from_another_process(stack_settings: Settings, source: str, tmp_path: Path):
    write_video(tmp_path / "v.mp4", 3)
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "publish", "frame", str(tmp_path / "v.mp4"), "--source", source, "--json"],
        env={**os.environ, **environment_of(stack_settings)},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["acknowledged"] == 30


def test_a_rate_that_a_camera_needs(publisher: Publisher, source: str):
    """Not a benchmark: only that nothing makes each event wait for the one before."""
    origins = Source(source, "default")
    bodies = [image(number) + bytes(200_000) for number in range(100)]
    began_s = time.monotonic()
    for body in bodies:
        publisher.publish(describe_frame(body, origins.origin()))
    assert publisher.flush(60) == 0
    assert time.monotonic() - began_s < 10
