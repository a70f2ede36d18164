"""What is watched: a process's own partitions; all of them only while it is not in the group."""

from collections.abc import Iterable
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition
from faust.types import TP

from headrace.runtime.settings import load_settings
from headrace.schemas.events import Kind
from headrace.schemas.topics import PartitionKey, input_topic
from headrace.streams.consumers.group_consumer import GroupConsumer
from headrace.streams.worker.lag import LagProbe
from headrace.streams.worker.membership import Membership
from headrace.streams.worker.profile import LARGE, faust_app

CLIPS = frozenset({Kind.CLIP})
TOPIC = input_topic(Kind.CLIP).name
SETTINGS = load_settings(_env_file=None)


class LagBroker:
    """A topic of two partitions, each with one message that nobody has finished."""

    partitions = (0, 1)

    def __init__(self, *_config: object) -> None:
        self.topics = {TOPIC: self}

    def list_topics(self, _topic: str, *, timeout: float) -> "LagBroker":
        assert timeout
        return self

    def committed(self, places: list[TopicPartition], *, timeout: float) -> list[TopicPartition]:
        assert timeout
        return [TopicPartition(place.topic, place.partition, 5) for place in places]

    def get_watermark_offsets(self, *_place: object, **_options: object) -> tuple[int, int]:
        return 0, 6

    def assign(self, _places: list[TopicPartition]) -> None:
        return

    def unassign(self) -> None:
        return


@pytest.fixture(autouse=True)
def _broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.streams.worker.lag.Consumer", LagBroker)


def watched(assigned: Any) -> Iterable[PartitionKey]:
    return LagProbe(SETTINGS, "group", [TOPIC], assigned)._read_offsets()


class Answer:
    """What a poll returned: a message, or the error of this code."""

    def __init__(self, code: int | None = None) -> None:
        self._code = code

    def error(self) -> KafkaError | None:
        return None if self._code is None else KafkaError(self._code)


AT_THE_END = Answer(KafkaError._PARTITION_EOF)


@pytest.mark.parametrize(
    ("answers", "lag"),
    [
        ([AT_THE_END], 0),
        ([Answer()], 1),
        # An error that is not the partition's end answers nothing, and neither does silence: it is asked again.
        ([Answer(KafkaError._TRANSPORT), None, Answer(KafkaError._ALL_BROKERS_DOWN), AT_THE_END], 0),
    ],
)
def test_offsets_without_a_message_are_no_lag(
    monkeypatch: pytest.MonkeyPatch, answers: list[Answer | None], lag: int
) -> None:
    pending = iter(answers)
    monkeypatch.setattr(LagBroker, "poll", lambda _broker, _seconds: next(pending), raising=False)
    probe = LagProbe(SETTINGS, "group", [TOPIC], lambda: [(TOPIC, 0)])
    lags = [probe._read_offsets()[TOPIC, 0].lag for _ in (None, *answers, None)]
    assert lags == [1] * len(answers) + [lag, lag]
    assert next(pending, None) is None


@pytest.mark.parametrize(("bounds", "lag"), [((8, 8), 0), ((7, 9), 2), ((0, 6), 1), ((0, 3), 0)])
def test_what_retention_deleted_is_no_lag(monkeypatch: pytest.MonkeyPatch, bounds: tuple[int, int], lag: int) -> None:
    monkeypatch.setattr(LagBroker, "get_watermark_offsets", lambda *_place, **_options: bounds)
    probe = LagProbe(SETTINGS, "group", [TOPIC], lambda: [(TOPIC, 0)])
    offsets = probe._read_offsets()
    assert [partition.lag for partition in offsets.values()] == [lag]
    assert (probe._tracker.observe(0, offsets) is None) == (not lag)


async def test_a_worker_that_stands_by_is_not_late_with_what_is_anothers() -> None:
    app = faust_app(SETTINGS, LARGE, CLIPS)
    membership = Membership(app)
    assert set(watched(membership.assignment)) == {(TOPIC, 0), (TOPIC, 1)}, "it may never get its share"
    await app.on_partitions_assigned.send(set())
    assert not watched(membership.assignment)
    await app.on_partitions_revoked.send(set())
    assert set(watched(membership.assignment)) == {(TOPIC, 0), (TOPIC, 1)}, "it may never get its share back"
    await app.on_partitions_assigned.send({TP(TOPIC, 1)})
    assert set(watched(membership.assignment)) == {(TOPIC, 1)}


class Client:
    """A member of a group as librdkafka shows it, to which nothing comes."""

    held: tuple[TopicPartition, ...] = ()

    def subscribe(self, _topics: list[str], **callbacks: Any) -> None:
        self.told = callbacks

    def poll(self, _seconds: float) -> None:
        return

    def assignment(self) -> tuple[TopicPartition, ...]:
        return self.held

    def tells(self, what: str, *partitions: int) -> None:
        self.told[what](self, [TopicPartition(TOPIC, number) for number in partitions])


def test_a_consumer_that_stands_by_is_not_late_with_what_is_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    monkeypatch.setattr("headrace.streams.consumers.group_consumer.Consumer", lambda _config: client)
    consumer = GroupConsumer(SETTINGS, "group", [TOPIC], on_revoked=lambda _places: None)
    consumer._open()

    def watched_now() -> set[PartitionKey]:
        consumer._poll(10)
        return set(watched(lambda: consumer.assigned))

    assert watched_now() == {(TOPIC, 0), (TOPIC, 1)}, "it may never get its share"
    client.tells("on_assign")
    assert watched_now() == set()
    client.held = (TopicPartition(TOPIC, 0),)
    client.tells("on_assign", 0)
    assert watched_now() == {(TOPIC, 0)}
    for gone in ("on_revoke", "on_lost"):
        client.held = ()
        client.tells(gone, 0)
        assert watched_now() == {(TOPIC, 0), (TOPIC, 1)}, "it may never get its share back"
        client.tells("on_assign")
        assert watched_now() == set()
