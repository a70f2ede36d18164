"""Where an ACL is missing, one sentence names the operation and the topic: at the start, and when it is withdrawn."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AclOperation, AdminClient

from headrace.gateway.app import serve
from headrace.gateway.capture.worker import work as capture
from headrace.producers import NotDeliveredError, Publisher
from headrace.runtime.acl import Operation, with_acl
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.events import Kind
from headrace.schemas.topics import CAPTURE_REQUESTS, PREPROCESSED, ingested_topic, input_topic
from headrace.streams.consumers.app import preprocessing
from headrace.streams.consumers.consume import consume
from headrace.streams.worker.app import work
from tests.acls import denied
from tests.batch.batch_samples import cid
from tests.commands import headrace
from tests.processes import ServiceProcess, free_port

CIDS, CLIPS, FRAMES = (input_topic(kind).name for kind in (Kind.CID, Kind.CLIP, Kind.FRAME))
INGESTED = ingested_topic(Kind.FRAME).name
ENDS_S_MAX = 60.0

Run = Callable[[Settings, asyncio.Event], Awaitable[Any]]


@pytest.fixture
def admin(settings: Settings) -> AdminClient:
    return AdminClient(client_config(settings))


def test_only_an_error_of_an_acl_is_given_another_text() -> None:
    refused = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert with_acl(refused, Operation.READ, "t").str() == "the ACL Read on the topic t is missing"
    assert with_acl(refused, Operation.READ, "t").code() == refused.code()
    other = KafkaError(KafkaError._TRANSPORT)
    assert with_acl(other, Operation.READ, "t") is other


async def worker(settings: Settings, stop: asyncio.Event) -> None:
    await work(settings, frozenset({Kind.CLIP}), stop)


async def reader(settings: Settings, stop: asyncio.Event) -> None:
    async def handle(*_: object) -> None:
        return

    await consume("frame", f"test-{uuid4().hex}", handle, settings=settings, stop=stop)


@pytest.mark.stack
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("run", "operation", "topic"),
    [
        (worker, AclOperation.READ, CLIPS),
        (serve, AclOperation.WRITE, CIDS),
        (capture, AclOperation.READ, CAPTURE_REQUESTS.name),
        (capture, AclOperation.WRITE, FRAMES),
        (preprocessing, AclOperation.READ, INGESTED),
        (preprocessing, AclOperation.WRITE, PREPROCESSED.name),
        (reader, AclOperation.READ, INGESTED),
    ],
    ids=["worker", "gateway", "capture requests", "captures", "consumer", "results", "consume"],
)
async def test_a_process_ends_with_the_acl_that_it_lacks(
    settings: Settings, admin: AdminClient, run: Run, operation: AclOperation, topic: str
) -> None:
    own = settings.model_copy(update={"gateway_port": free_port(), "capture_confinement": "auto"})
    with denied(admin, topic, operation), pytest.raises(HeadraceError) as caught:
        async with asyncio.timeout(ENDS_S_MAX):
            await run(own, asyncio.Event())
    assert caught.value.what == f"the ACL {operation.name.capitalize()} on the topic {topic} is missing"
    assert (caught.value.code, caught.value.where) == ("acl_missing", settings.kafka_bootstrap)


@pytest.mark.stack
def test_a_command_that_reads_or_writes_names_it_too(settings: Settings, admin: AdminClient, tmp_path: Path) -> None:
    topic = ingested_topic(Kind.CID).name
    with Publisher.from_settings(settings) as publisher:
        publisher.publish(cid(uuid4().hex)).result(30)
        with denied(admin, CIDS, AclOperation.WRITE), pytest.raises(NotDeliveredError) as caught:
            publisher.publish(cid(uuid4().hex)).result(30)
    assert f"the ACL Write on the topic {CIDS} is missing" in str(caught.value)
    with denied(admin, CIDS, AclOperation.READ):
        output = headrace(settings, "cat", CIDS, code=Exit.FAILED).err
    assert f"acl_missing: the ACL Read on the topic {CIDS} is missing" in output
    with denied(admin, topic, AclOperation.DESCRIBE):
        output = headrace(settings, "cat", topic, code=Exit.FAILED).err
    assert f"acl_missing: the ACL Describe on the topic {topic} is missing" in output


@pytest.mark.stack
@pytest.mark.server
def test_a_worker_that_may_not_read_any_more_ends_with_a_sentence(
    settings: Settings, admin: AdminClient, tmp_path: Path
) -> None:
    process = ServiceProcess(settings, "worker", "--kinds", "clips", log=tmp_path / "log").wait_ready()
    try:
        with denied(admin, CLIPS, AclOperation.READ):
            assert process.process.wait(ENDS_S_MAX) == Exit.BROKEN
    finally:
        process.kill()
    assert f"the ACL Read on the topic {CLIPS} is missing" in process.log.read_text()
