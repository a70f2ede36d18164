"""The public consumer: it calls your handler for each announcement and commits offsets after the handler returned."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from typing import Literal

from confluent_kafka import KafkaException

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import kafka_failed, wait_for_kafka
from headrace.runtime.settings import Settings
from headrace.runtime.stack_settings import client_settings
from headrace.runtime.wait_for_service import StoppedError
from headrace.schemas.events import Ingested, Kind, singular
from headrace.schemas.headers import unix_us_of
from headrace.schemas.topics import PartitionKey, ingested_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.body import Body
from headrace.streams.consumers.group_consumer import GroupConsumer, PolledEvent
from headrace.streams.consumers.handler_errors import HandlerErrors, on_error_of
from headrace.streams.consumers.interrupt import stopped_by_ctrl_c
from headrace.streams.consumers.retrying_handler import RetryingHandler
from headrace.streams.worker.retry import RetryPolicy


async def consume(  # noqa: PLR0913 - the parameters are the public interface
    kinds: Kind | str | Iterable[Kind | str],
    group: str,
    handler: Callable[[Ingested, Body], Awaitable[None]],
    *,
    site: str | Iterable[str] | None = None,
    source: str | Iterable[str] | None = None,
    on_error: Literal["retry", "skip", "stop"] = "retry",
    settings: Settings | None = None,
    stop: asyncio.Event | None = None,
    since: datetime | None = None,
) -> None:
    """Call `handler` for each ingested record, until `stop` is set.

    Every record of these kinds is delivered to the group `group` at least once: its offset is committed after the
    handler returned, so a handler must be idempotent (`event.event_id` is the same at a repetition). The records of one
    source come in order; up to `consumer_events_max` are polled at a time, and partitions are handled concurrently.
    Processes with the same group share the partitions. A new group begins with the oldest announcement in Kafka.

    `kinds` are singular or plural. With `site` or `source` the handler gets the records of these alone; the offsets of
    the others are committed. `on_error`: a handler that raises is retried with backoff for `processing_deadline_s`
    seconds ("retry"), or its record is logged with file and line and passed over ("skip"), or its error ends `consume`
    at once ("stop"). While the store is away it is retried in any case.

    With `since`, a group that has no offsets yet begins with what was ingested from that time on, whether Kafka still
    has it or not: it comes from the catalog, up to the point where the topic goes on. Nothing is missing there and
    nothing comes twice. This needs the catalog (`pip install 'headrace[service]'` and HEADRACE_POSTGRES_DSN).

    Without `settings`, the addresses are those of the environment, or of the stack that `headrace up` started in this
    folder. Without `stop`, the first Ctrl-C ends it after the records that are being handled.

    Example:
        async def print_size(event: Ingested, body: Body) -> None:
            print(event.source_id, event.captured_at_us, len(await body.read()))

        asyncio.run(consume("frame", "my-model", print_size))

    Raises:
        HeadraceError: a kind or policy is unknown, a setting is invalid, or Kafka does not answer or refuses; with
            `since`, also if the catalog does.
        Exception: what the handler raised, at its deadline with "retry"; its record is delivered first after a restart.
    """
    errors = HandlerErrors(on_error_of(on_error), handler)
    settings = settings or client_settings()
    is_wanted = _selection(site, source)
    wanted = _kinds(kinds)
    topics = [ingested_topic(kind).name for kind in wanted]
    since_us = 0 if since is None else unix_us_of(since)
    blobs = Blobs.from_settings(settings)

    async def handle(polled: PolledEvent) -> None:
        if is_wanted(polled.event) and polled.event.ingested_at_us >= since_us:
            await handler(polled.event, Body(polled.event, blobs, archived_at_us=polled.archived_at_us))

    stopping = stop or asyncio.Event()
    policy = RetryPolicy(settings.retry_delay_s, settings.retry_delay_s_max, settings.processing_deadline_s)
    retrying = RetryingHandler(group, handle, policy, stopping, errors=errors)
    consumer = GroupConsumer(settings, group, topics, on_revoked=_ignore)
    with stopped_by_ctrl_c(stopping) if stop is None else nullcontext():
        try:
            await wait_for_kafka(settings, stop=stopping)
        except StoppedError:
            return
        if since is not None:
            await _backfill(settings, group, wanted, since_us)(retrying, stopping)
        await _consume(consumer, retrying, settings, stopping)


async def _consume(consumer: GroupConsumer, retrying: RetryingHandler, settings: Settings, stop: asyncio.Event) -> None:
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
        return [Kind(singular(kind)) for kind in named]
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


def _selection(site: str | Iterable[str] | None, source: str | Iterable[str] | None) -> Callable[[Ingested], bool]:
    sites, sources = ({value} if isinstance(value, str) else value and set(value) for value in (site, source))
    return lambda event: (not sites or event.site in sites) and (not sources or event.source_id in sources)


def _ignore(_partitions: set[PartitionKey]) -> None:
    return
