"""The public consumer: it calls your handler for each announcement and commits offsets after the handler returned."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from functools import partial

from confluent_kafka import KafkaException

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import kafka_failed, wait_for_kafka
from headrace.runtime.settings import Settings, load_settings
from headrace.runtime.wait_for_service import StoppedError
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.headers import unix_us_of
from headrace.schemas.topics import PartitionKey, ingested_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.body import Body
from headrace.streams.consumers.group_consumer import GroupConsumer, PolledEvent
from headrace.streams.consumers.retrying_handler import RetryingHandler
from headrace.streams.worker.retry import RetryPolicy


async def consume(  # noqa: PLR0913 - the last three are options that few callers need
    kinds: Kind | str | Iterable[Kind | str],
    group: str,
    handler: Callable[[Ingested, Body], Awaitable[None]],
    *,
    settings: Settings | None = None,
    stop: asyncio.Event | None = None,
    since: datetime | None = None,
) -> None:
    """Call `handler` for each ingested record, until `stop` is set.

    Every record of these kinds is delivered to the group `group` at least once: its offset is committed after the
    handler returned, so a handler must be idempotent (`event.event_id` is the same at a repetition). The records of one
    source come in order; up to `consumer_events_max` are polled at a time, and partitions are handled concurrently.
    Processes with the same group share the partitions. A new group begins with the oldest announcement in Kafka.

    With `since`, a group that has no offsets yet begins with what was ingested from that time on, whether Kafka still
    has it or not: it comes from the catalog, up to the point where the topic goes on. Nothing is missing there and
    nothing comes twice. This needs the catalog (`pip install 'headrace[service]'` and HEADRACE_POSTGRES_DSN).

    A handler that raises is retried with backoff for `processing_deadline_s` seconds.

    Example:
        async def print_size(event: Ingested, body: Body) -> None:
            print(event.source_id, event.captured_at_us, len(await body.read()))

        asyncio.run(consume("frame", "my-model", print_size))

    Raises:
        HeadraceError: a kind is unknown, a setting is invalid, or Kafka does not answer or refuses the client; with
            `since`, also if the catalog does.
        Exception: what the handler raised at its deadline; its record is delivered first after a restart.
    """
    settings = settings or load_settings()
    stop = stop or asyncio.Event()
    wanted = _kinds(kinds)
    topics = [ingested_topic(kind).name for kind in wanted]
    since_us = 0 if since is None else unix_us_of(since)
    blobs = Blobs.from_settings(settings)

    async def handle(polled: PolledEvent) -> None:
        if polled.event.ingested_at_us >= since_us:
            await handler(polled.event, Body(polled.event, blobs, archived_at_us=polled.archived_at_us))

    policy = RetryPolicy(settings.retry_delay_s, settings.retry_delay_s_max, settings.processing_deadline_s)
    retrying = RetryingHandler(group, handle, policy, stop)
    consumer = GroupConsumer(settings, group, topics, on_revoked=_ignore)
    try:
        await wait_for_kafka(settings, stop=stop)
    except StoppedError:
        return
    if since is not None:
        await _backfill(settings, group, wanted, since_us)(retrying, stop)
    await consumer.open()
    try:
        await _loop(consumer, retrying, settings.consumer_events_max, stop)
    except KafkaException as error:
        raise kafka_failed(settings, error.args[0]) from None
    finally:
        await consumer.close()


async def _loop(consumer: GroupConsumer, retrying: RetryingHandler, events_max: int, stop: asyncio.Event) -> None:
    while not stop.is_set():
        batch = await consumer.poll(events_max)
        handled = await retrying.run(batch)
        await consumer.commit(handled.next_offsets)
        if handled.errors:
            raise handled.errors[0]
        await consumer.seek(handled.unfinished)


def _kinds(kinds: Kind | str | Iterable[Kind | str]) -> list[Kind]:
    named = [kinds] if isinstance(kinds, str) else list(kinds)
    try:
        return [Kind(kind) for kind in named]
    except ValueError:
        raise HeadraceError("kind_unknown", f"unknown kind in {named}", hint=f"use one of {', '.join(Kind)}") from None


def _backfill(
    settings: Settings, group: str, kinds: list[Kind], since_us: int
) -> Callable[[RetryingHandler, asyncio.Event], Awaitable[None]]:
    try:
        from headrace.streams.consumers.backfill import Backfill, backfill
    except ModuleNotFoundError as error:
        raise HeadraceError(
            "package_missing",
            f"since needs {error.name}, which is not installed",
            hint="pip install 'headrace[service]'",
            exit_code=Exit.USAGE,
        ) from None
    return partial(backfill, settings, Backfill(group, kinds, since_us))


def _ignore(_partitions: set[PartitionKey]) -> None:
    return
