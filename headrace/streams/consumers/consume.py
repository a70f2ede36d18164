"""The public consumer: announcements in, a handler of yours, offsets committed after it returned."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from confluent_kafka import KafkaException

from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import kafka_unreachable, wait_for_kafka
from headrace.runtime.settings import Settings, load_settings
from headrace.runtime.wait_for_service import StoppedError
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.topics import ingested_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.streams.consumers.body import Body
from headrace.streams.consumers.group_consumer import GroupConsumer, PolledEvent, TopicPartitionKey
from headrace.streams.consumers.retrying_handler import Retries, RetryingHandler


async def consume(
    kinds: Kind | str | Iterable[Kind | str],
    group: str,
    handler: Callable[[Ingested, Body], Awaitable[None]],
    *,
    settings: Settings | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Call `handler` for each record that was ingested, until `stop` is set.

    Every record of these kinds reaches the group `group` at least once: its place is committed after the handler
    returned, so a handler must bear a repetition (`event.event_id` is the same then). One source's records come in
    their order; up to `consumer_events_max` are taken up at a time, the topics' partitions beside each other. Several
    processes with the same group share the work. A new group begins with the oldest announcement that Kafka keeps.

    The handler may raise: it is called again, after a pause that grows, for `processing_deadline_s` seconds.

    Example:
        async def print_size(event: Ingested, body: Body) -> None:
            print(event.source_id, event.captured_at_us, len(await body.read()))

        asyncio.run(consume("frame", "my-model", print_size))

    Raises:
        HeadraceError: a kind is unknown, a setting is wrong, or Kafka does not answer or refuses us.
        Exception: whatever the handler still raised at its deadline; its record is the first to come when consuming
            begins again.
    """
    settings = settings or load_settings()
    stop = stop or asyncio.Event()
    topics = [ingested_topic(kind).name for kind in _kinds(kinds)]
    blobs = Blobs.from_settings(settings)

    async def handle(taken: PolledEvent) -> None:
        await handler(taken.event, Body(taken.event, blobs))

    retries = Retries(settings.retry_delay_s, settings.retry_delay_s_max, settings.processing_deadline_s)
    handling = RetryingHandler(group, handle, retries, stop)
    intake = GroupConsumer(settings, group, topics, given_up=_nobody)
    try:
        await wait_for_kafka(settings, stop=stop)
    except StoppedError:
        return
    await intake.open()
    try:
        await _loop(intake, handling, settings.consumer_events_max, stop)
    except KafkaException as error:
        raise kafka_unreachable(settings, error.args[0]) from None
    finally:
        await intake.close()


async def _loop(intake: GroupConsumer, handling: RetryingHandler, events_max: int, stop: asyncio.Event) -> None:
    while not stop.is_set():
        batch = await intake.take(events_max)
        handled = await handling.run(batch)
        await intake.commit(handled.next_offsets)
        if handled.errors:
            raise handled.errors[0]
        await intake.give_back(handled.unfinished)


def _kinds(kinds: Kind | str | Iterable[Kind | str]) -> list[Kind]:
    named = [kinds] if isinstance(kinds, str) else list(kinds)
    try:
        return [Kind(kind) for kind in named]
    except ValueError:
        raise HeadraceError(
            "kind_unknown", f"there is no kind among {named} that is not one of {', '.join(Kind)}", hint="name a kind"
        ) from None


def _nobody(_partitions: set[TopicPartitionKey]) -> None:
    return
