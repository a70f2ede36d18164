from collections import Counter
from itertools import islice
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.digest import record_id, sha256_hex, staging_key
from headrace.schemas.events import Clip, Frame, Kind
from headrace.schemas.limits import INLINE_BYTES_MAX
from headrace.schemas.media_probe import probe_of
from headrace.schemas.reject import RejectCode
from headrace.schemas.validate import check_media
from headrace.store.blobs.blob_store import Blobs
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.core.examine import AcceptedDelivery, RejectedDelivery, examine
from tests.faults.acks import Ack, AckFile, Attempt, Place, read_acks
from tests.faults.plan import Mix, Planned, planned
from tests.faults.workload import Workload
from tests.waiting import until_async

NOW_US = 1_760_000_000_000_000
SMALL = Mix(bytes_max=50_000)


def plan(seed: int, count: int, mix: Mix = SMALL, first: int = 0) -> list[Planned]:
    return list(islice(planned(seed, first=first, mix=mix), count))


def test_a_seed_replays_its_plan():
    assert plan(7, 300) == plan(7, 300)
    assert plan(7, 300) != plan(8, 300)


def test_shares_are_what_was_asked_for():
    messages = plan(3, 4000)
    codes = Counter(message.attempt.expect for message in messages)
    valid = [message.attempt.record_id for message in messages if message.event is not None]
    assert codes[RejectCode.DIGEST_MISMATCH] == pytest.approx(40, rel=0.5)
    assert len(messages) - len(valid) == pytest.approx(120, rel=0.3)
    assert len(valid) - len(set(valid)) == pytest.approx(1200, rel=0.1)
    assert {message.attempt.kind for message in messages if message.event is not None} == set(Kind)
    assert len(codes.keys() - {None}) == 18


def test_what_is_valid_is_accepted_and_poison_refused_with_its_code():
    for message in plan(5, 1500):
        verdict = examined(message, message.value if message.event is None else encode(message.event))
        attempt = message.attempt
        match verdict:
            case AcceptedDelivery():
                judged = (verdict.digest, verdict.size_bytes, record_id(attempt.kind, verdict.digest), None)
                if attempt.expect is RejectCode.CLAIM_MISSING:  # only the store can tell
                    assert isinstance(verdict.event, Frame)
                    assert verdict.event.claim is not None
                else:
                    assert judged == (attempt.digest, attempt.size_bytes, attempt.record_id, attempt.expect)
            case RejectedDelivery():
                value = message.value or b""
                found_code = (verdict.code, sha256_hex(value), len(value))
                assert found_code == (attempt.expect, attempt.digest, attempt.size_bytes)


def test_large_bodies_are_rare_valid_and_few_sources_have_them():
    messages = plan(1, 1601, Mix())
    large = [message for message in messages if message.large]
    assert len(large) >= 4
    assert {message.attempt.source_id for message in large} <= {"large-0", "large-1"}
    for message in large:
        assert isinstance(message.event, Frame | Clip)
        body = message.event.body
        assert body is not None
        assert INLINE_BYTES_MAX < len(body) == message.attempt.size_bytes <= 20_000_000
        check_media(message.event, probe_of(body))
    mean = sum(message.attempt.size_bytes for message in messages) / len(messages)
    assert 15_000 < mean < 120_000


def test_no_source_is_shared_and_each_counts_upwards():
    messages = plan(2, 2000, first=50_000)
    poisoned = {message.attempt.source_id for message in messages if message.event is None}
    valid = {message.attempt.source_id for message in messages if message.event is not None}
    assert not poisoned & valid
    assert all(name.startswith("poison-") for name in poisoned)
    assert [message.attempt.sequence for message in messages] == list(range(50_000, 52_000))
    assert all(message.attempt.source_id.startswith("x-") for message in plan(2, 200, Mix(bytes_max=1000, names="x-")))


def test_bytes_differ_from_seed_to_seed():
    first, second = ({message.attempt.record_id for message in plan(seed, 500)} - {None} for seed in (11, 12))
    assert not first & second


def test_the_smallest_and_the_largest_pass():
    sizes = [message.attempt.size_bytes for message in plan(9, 3000, Mix(bytes_max=INLINE_BYTES_MAX))]
    assert min(sizes) < 200
    assert max(sizes) > 1_000_000


def test_acks_are_read_as_they_were_written(tmp_path: Path):
    attempts = [message.attempt for message in plan(4, 60)]
    path = tmp_path / "acks"
    with AckFile(path) as file:
        for attempt in attempts:
            file.attempt(attempt)
        file.ack(3, Place("edge.cids.v1", 2, 17))
    acks = read_acks(path)
    assert list(acks.attempts.values()) == attempts
    assert acks.acks == [Ack(3, Place("edge.cids.v1", 2, 17))]


def test_a_torn_last_line_was_never_written_and_the_next_writer_goes_on(tmp_path: Path):
    path = tmp_path / "acks"
    first, second = (message.attempt for message in plan(4, 2))
    with AckFile(path) as file:
        file.attempt(first)
        file.attempt(second)
    path.write_bytes(path.read_bytes()[:-5])
    assert list(read_acks(path).attempts) == [0]
    with AckFile(path) as file:
        file.attempt(second)
    assert list(read_acks(path).attempts.values()) == [first, second]


@pytest.mark.parametrize("line", [b"{}\n", b"nonsense\n", b'{"attempt":{"number":1}}\n', b"\n"])
def test_any_other_bad_line_is_an_error(tmp_path: Path, line: bytes):
    path = tmp_path / "acks"
    with AckFile(path) as file:
        file.ack(1, Place("t", 0, 0))
    path.write_bytes(line + path.read_bytes())
    with pytest.raises(ValueError, match="line 1"):
        read_acks(path)


@pytest.mark.stack
async def test_a_real_broker_has_what_was_taken_down(stack_settings: Settings, blobs: Blobs, tmp_path: Path):
    names = f"w{uuid4().hex[:8]}-"
    mix = Mix(poison=0.1, wrong_digests=0.05, large_every=60, bytes_max=9_000_000, names=names)
    workload = Workload(stack_settings, tmp_path / "acks", 21, rate_hz=200, mix=mix)
    workload.start()
    await until_async(lambda: workload.attempted >= 150, 60, "150 attempts")
    workload.pause()
    acks = workload.stop()
    assert not workload.given_up
    assert len(acks.acks) == len(acks.attempts) == workload.acked == workload.attempted >= 150
    await check_places(stack_settings, blobs, acks.attempts, acks.acks)


async def check_places(settings: Settings, blobs: Blobs, attempts: dict[int, Attempt], acks: list[Ack]) -> None:
    large = 0
    messages = read(settings, {ack.place for ack in acks})
    for ack in acks:
        attempt, (key, value) = attempts[ack.number], messages[ack.place]
        assert key == attempt.source_id.encode()
        if attempt.expect is not None:
            assert sha256_hex(value or b"") == attempt.digest
            continue
        examined = examine(attempt.kind, ConsumedMessage(*ack.place, NOW_US, key, value, ()))
        assert isinstance(examined, AcceptedDelivery)
        assert (examined.digest, examined.size_bytes) == (attempt.digest, attempt.size_bytes)
        if isinstance(examined.event, Frame | Clip) and examined.event.claim is not None:
            large += 1
            assert examined.event.claim == staging_key(examined.event.site, attempt.source_id, attempt.digest)
            assert sha256_hex(await blobs.get(examined.event.claim)) == attempt.digest
    assert large >= 2


def read(settings: Settings, places: set[Place]) -> dict[Place, tuple[bytes | None, bytes | None]]:
    first: dict[tuple[str, int], int] = {}
    for place in places:
        first[place[:2]] = min(place.offset, first.get(place[:2], place.offset))
    messages_read: dict[Place, tuple[bytes | None, bytes | None]] = {}
    consumer = Consumer(client_config(settings, group_id=f"test-{uuid4().hex}"))
    try:
        consumer.assign([TopicPartition(*partition, offset) for partition, offset in first.items()])
        while places - messages_read.keys():
            message = consumer.poll(20)
            assert message is not None
            assert message.error() is None
            messages_read[Place(message.topic(), message.partition(), message.offset())] = (
                message.key(),
                message.value(),
            )
    finally:
        consumer.close()
    return messages_read


def examined(message: Planned, value: bytes | None) -> AcceptedDelivery | RejectedDelivery:
    attempt = message.attempt
    return examine(attempt.kind, ConsumedMessage(attempt.topic, 0, 0, NOW_US, b"k", value, ()))
