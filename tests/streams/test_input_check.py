"""The check of an assignment against a real topic, a real group and a real catalog, without a worker around it."""

from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from faust.types import TP

from headrace.runtime.errors import Exit
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.ingest_progress import IngestProgress
from headrace.streams.worker.input_check import InputCheck
from headrace.streams.worker.retry import Retry, RetryPolicy
from tests.waiting import until

pytestmark = pytest.mark.stack

GROUP = "checked"
MESSAGES = 10


class EndedError(Exception):
    """The process would be gone."""


@pytest.fixture
def topic(settings: Settings) -> Iterator[str]:
    """A topic of one partition with some messages, of which the group has committed none."""
    name = f"checked-{settings.postgres_dsn.get_secret_value()[-12:]}"
    admin = AdminClient(client_config(settings))
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
    producer = Producer(client_config(settings))
    for _ in range(MESSAGES):
        producer.produce(name, b"")
    assert producer.flush(30) == 0
    yield name
    admin.delete_topics([name])[name].result(30)


@pytest.fixture
def progress(catalog: Catalog) -> IngestProgress:
    return catalog.ingest_progress()


@pytest.fixture
def check(settings: Settings, catalog: Catalog) -> InputCheck:
    def halt(exit_code: int, why: str) -> None:
        raise EndedError(exit_code, why)

    retry = Retry(RetryPolicy(delay_s=0.01, delay_s_max=0.1, deadline_s=10.0))
    return InputCheck(settings, GROUP, catalog, retry, halt)


def commit(settings: Settings, topic: str, offset: int) -> None:
    consumer = Consumer(client_config(settings, group_id=GROUP, enable_auto_commit=False))
    try:
        until(lambda: consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False), 30, "the commit")
    finally:
        consumer.close()


async def test_the_groups_offset_is_believed_once_and_compared_from_then_on(
    settings: Settings, topic: str, check: InputCheck, progress: IngestProgress
) -> None:
    place, key = TP(topic, 0), (topic, 0)
    commit(settings, topic, 4)
    assert await check.on_assigned([place]) == frozenset()
    assert (await progress.positions([key]))[key].next_offset == 4
    commit(settings, topic, 7)
    with pytest.raises(EndedError) as ended:
        await check.on_assigned([place])
    assert ended.value.args[0] == Exit.REVERTED
    assert f"it has {topic} [0] to offset 4, and the group committed 7" in ended.value.args[1]
    assert await progress.lost() == []
    await progress.advance({key: 9})
    assert await check.on_assigned([place]) == frozenset()
    assert (await progress.positions([key]))[key].next_offset == 9


async def test_what_was_deleted_before_it_was_ingested_is_lost_and_only_once(
    settings: Settings, topic: str, check: InputCheck, progress: IngestProgress
) -> None:
    await progress.advance({(topic, 0): 2})
    admin, place = AdminClient(client_config(settings)), TopicPartition(topic, 0, 6)
    admin.delete_records([place])[place].result(30)
    for _ in range(2):
        assert await check.on_assigned([TP(topic, 0)]) == frozenset()
        (lost,) = await progress.lost()
        assert (lost.topic, lost.partition, lost.first_offset, lost.last_offset, lost.count) == (topic, 0, 2, 5, 4)
    assert (await progress.positions([(topic, 0)]))[topic, 0].next_offset == 6


async def test_a_topic_that_was_made_anew_is_read_from_its_start(
    settings: Settings, topic: str, check: InputCheck, progress: IngestProgress
) -> None:
    key = topic, 0
    await progress.advance({key: MESSAGES + 90})
    commit(settings, topic, MESSAGES + 50)
    assert await check.on_assigned([TP(topic, 0)]) == {TP(topic, 0)}
    assert (await progress.positions([key]))[key].next_offset == 0
