"""What Kafka refuses of one row or of one topic delays no other row and no other topic."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import structlog
from confluent_kafka.admin import (
    AclOperation,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from headrace.runtime.kafka import client_config
from headrace.runtime.logs import Action
from headrace.runtime.metrics import relay_abridged_total, relay_topic_failing
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import RowBatch
from headrace.schemas.codec import decode
from headrace.schemas.digest import event_id
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.topics import TOPICS
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.outbox import Outbox
from headrace.store.postgres import borrowed
from headrace.streams.relay.announcement import ABRIDGED_ATTRIBUTES
from tests.acls import denied
from tests.streams.relay.relay_samples import CLIPS, LDOS, AnnouncementReader, Running, dead_letters, rows, wait_until

pytestmark = pytest.mark.stack

LIMIT_BYTES = 2_000


@contextmanager
def limited(admin: AdminClient, topic: str) -> Iterator[None]:
    """Lower the topic's `max.message.bytes`, and give it back the one that it is declared with."""

    def alter(bytes_max: int) -> None:
        entry = ConfigEntry("max.message.bytes", str(bytes_max), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(10)

    alter(LIMIT_BYTES)
    try:
        yield
    finally:
        alter(TOPICS[topic].message_bytes_max)


def with_large(batch: RowBatch) -> RowBatch:
    """Give the second record attributes that do not fit, and the third a name that does not."""
    first, second, third, *others = batch.records
    second = replace(second, attributes=b'{"a":"%s"}' % (b"x" * LIMIT_BYTES))
    third = replace(third, about="x" * LIMIT_BYTES)
    return replace(batch, records=[first, second, third, *others])


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "hidden"])
async def test_a_limit_that_is_lowered_at_runtime_costs_only_the_rows_that_do_not_fit(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader, *, is_told: bool
):
    """Also where an ACL hides the limit from the relay, which then has to find out by itself."""
    admin = AdminClient(client_config(settings))
    abridged = relay_abridged_total.labels(LDOS)
    before = abridged._value.get()
    batch, ids = rows(6)
    others, letters = dead_letters(2, 100)
    letter_ids = [event_id(letter) for letter in letters]
    async with Running(settings, outbox) as running:
        await running.idle()
        with limited(admin, LDOS), nullcontext() if is_told else denied(admin, LDOS, AclOperation.DESCRIBE_CONFIGS):
            await catalog.commit(with_large(batch))
            await catalog.commit(others)
            assert sorted(await announced.read(7, 60)) == sorted([*ids[:2], *ids[3:], *letter_ids])
            await running.idle()
        ldos = [decode(message.value(), Ingested) for message in announced.messages if message.topic() == LDOS]
        (large,) = [ldo for ldo in ldos if ldo.event_id == str(ids[1])]
        assert large.attributes == ABRIDGED_ATTRIBUTES
        assert abridged._value.get() == before + 1
        (aside,) = await outbox.listed_set_aside(10)
        assert (aside.event_id, aside.topic, aside.record_id) == (ids[2], LDOS, batch.records[2].record_id)
        assert await outbox.retry_set_aside() == 1
        assert sorted(await announced.read(8, 60)) == sorted([*ids, *letter_ids])
    assert (await outbox.set_aside_rows(), await outbox.unpublished()) == (0, 0)


@pytest.mark.parametrize("operation", [AclOperation.WRITE, AclOperation.DESCRIBE])
async def test_a_topic_without_an_acl_waits_and_the_others_go_on(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader, operation: AclOperation
):
    admin = AdminClient(client_config(settings))
    clips, clip_ids = rows(5, kind=Kind.CLIP)
    ldos, ldo_ids = rows(5)
    failing = relay_topic_failing.labels(CLIPS)
    async with Running(settings.model_copy(update={"retry_delay_s_max": 0.5}), outbox) as running:
        with denied(admin, CLIPS, operation):
            await catalog.commit(clips)
            await wait_until(lambda: failing._value.get() == 1)
            await catalog.commit(ldos)
            assert sorted(await announced.read(5, 60)) == sorted(ldo_ids)
            assert await outbox.unpublished() == 5
        assert sorted(await announced.read(10, 60)) == sorted(ldo_ids + clip_ids)
        await running.idle()
    assert failing._value.get() == 0
    assert await outbox.set_aside_rows() == 0


@pytest.mark.parametrize("operation", [AclOperation.READ, AclOperation.WRITE])
async def test_the_log_names_the_acl_that_is_missing(
    settings: Settings, catalog: Catalog, outbox: Outbox, announced: AnnouncementReader, operation: AclOperation
):
    admin = AdminClient(client_config(settings))
    batch, ids = rows(3)
    others, _ = rows(3, first=3)
    await catalog.commit(batch)
    async with Running(settings, outbox) as running:
        assert sorted(await announced.read(3, 60)) == sorted(ids)
        await running.idle()
    async with borrowed(outbox._pool, "") as connection:
        await connection.execute("delete from relay_checkpoints")  # so that every topic is read from its start
    await catalog.commit(others)
    failing = relay_topic_failing.labels(LDOS)
    with structlog.testing.capture_logs() as lines, denied(admin, LDOS, operation):
        async with Running(settings.model_copy(update={"retry_delay_s_max": 0.5}), outbox):
            await wait_until(lambda: failing._value.get() == 1)
    refused = [line for line in lines if line["event"] == Action.REFUSED]
    assert {line["topic"] for line in refused} == {LDOS}, [line for line in lines if "why" in line]
    assert f"the ACL {operation.name.capitalize()} on the topic {LDOS} is missing" in refused[0]["why"]
