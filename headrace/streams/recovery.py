"""`headrace recover`: go on with a catalog that went back in time.

The groups are moved back to what the catalog has, so that everything after it is ingested again; unique keys make that
harmless. Announcements that are on their topics and that the catalog does not know are recorded as announced, so that
none is published twice, and so are the packs that they name: other packs would come of other batches, and the ones that
consumers were told of would be orphans. Kafka and the store get a new epoch, which an even older copy of the catalog
would lack.

The order makes every step repeatable after a kill: first the catalog refuses every process (`recovering_since`) and has
the offsets up to which orphans are left alone; its own new epoch comes last.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.runtime import crash_points
from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import client_config, kafka_failed
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import offset_bounds, partitions_of, reading_consumer
from headrace.schemas.catalog_rows import BlobRow
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested
from headrace.schemas.topics import PartitionKey, input_topics
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.ingest_progress import IngestProgress
from headrace.store.catalog.outbox import Outbox
from headrace.store.catalog.recovery import Recovery
from headrace.store.catalog.sessions import try_leader_lock
from headrace.store.installation import Mark, OlderReasons, mark_kafka, mark_store, older_reasons
from headrace.streams.core.input_position import CatalogBehind, judge
from headrace.streams.relay.announcement import OUTPUT_TOPICS
from headrace.streams.relay.published_offsets import PublishedOffsets
from headrace.streams.transaction_errors import ProducerResetError, TopicRefusedError
from headrace.streams.worker.input_check import position_of
from headrace.streams.worker.profile import LARGE, SMALL

_REQUEST_S = 10.0
GROUPS = {group.name: group for group in (SMALL, LARGE)}


@dataclass(frozen=True, slots=True)
class Rewind:
    """A group's partition that is to be read again from `start` on; the group committed `end`."""

    group: str
    key: PartitionKey
    start: int
    end: int


@dataclass(slots=True)
class RecoveryPlan:
    """What is to be done, and why; there is nothing to do where `reasons` is empty."""

    installation: OlderReasons
    reasons: list[str] = field(default_factory=list)
    rewinds: list[Rewind] = field(default_factory=list)
    unknown: int = 0


async def plan(settings: Settings, blobs: Blobs) -> RecoveryPlan:
    """Compare catalog, Kafka and store; changes nothing.

    Raises:
        HeadraceError: they belong to different installations, or a service does not answer.
    """
    installation = await older_reasons(settings, blobs)
    made = RecoveryPlan(installation, list(installation.reasons))
    async with aclosing(_unknown(settings)) as announcements:
        async for unknown in announcements:
            made.unknown += len(unknown)
    made.rewinds = await _rewinds(settings, is_older=bool(made.reasons or made.unknown))
    made.reasons += [
        f"{rewind.key[0]} [{rewind.key[1]}]: the group committed {rewind.end}, the catalog has {rewind.start}"
        for rewind in made.rewinds
    ]
    if made.unknown:
        made.reasons.append(f"{made.unknown} announcements are on their topics that the catalog does not know")
    return made


async def recover(
    settings: Settings, blobs: Blobs, made: RecoveryPlan, *, reached: Reached = crash_points.reached
) -> int:
    """Carry out a plan; returns the new epoch. May be repeated, also after a kill, with a new plan.

    Call it within `alone`. `reached` is called at each crash point.
    """
    dsn, epoch = settings.postgres_dsn.get_secret_value(), made.installation.newest_epoch + 1
    mark = Mark(made.installation.installation_id, epoch)
    async with Recovery.open(dsn) as recovery:
        await recovery.restore_identity(mark.installation_id, made.installation.kafka_cluster_id)
        await recovery.begin({rewind.key: rewind.end for rewind in made.rewinds})
        reached(CrashPoint.RECOVER_AFTER_BEGIN)
        async with aclosing(_unknown(settings)) as announcements:
            async for unknown in announcements:
                await recovery.learn(list(unknown), await _packed(blobs, filter(None, unknown.values())))
        reached(CrashPoint.RECOVER_AFTER_LEARN)
        for group in GROUPS:
            await asyncio.to_thread(_move, settings, group, [at for at in made.rewinds if at.group == group])
            reached(CrashPoint.RECOVER_AFTER_REWIND)
        await asyncio.to_thread(mark_kafka, settings, mark)
        reached(CrashPoint.RECOVER_AFTER_MARK)
        await mark_store(blobs, mark)
        reached(CrashPoint.RECOVER_BEFORE_FINISH)
        await recovery.finish(epoch, settings.quarantine_days)
    return epoch


@asynccontextmanager
async def alone(settings: Settings) -> AsyncIterator[None]:
    """Make sure that no worker and no relay runs; none can lead meanwhile.

    Raises:
        HeadraceError: one runs.
    """
    members = await asyncio.to_thread(_members, settings)
    if members:
        raise _running(f"{len(members)} workers are members of {', '.join(sorted(set(members)))}")
    lock = await try_leader_lock(settings.postgres_dsn.get_secret_value())
    if lock is None:
        raise _running("a relay is publishing")
    try:
        yield
    finally:
        await lock.release()


def _running(what: str) -> HeadraceError:
    return HeadraceError(
        "service_running",
        what,
        hint="stop all workers and relays first; a killed worker is a member until its session ends (30 s)",
        exit_code=Exit.FAILED,
    )


def _members(settings: Settings) -> list[str]:
    admin = AdminClient(client_config(settings))
    try:
        described = admin.describe_consumer_groups(list(GROUPS), request_timeout=_REQUEST_S)
        return [name for name, group in described.items() for _ in group.result(_REQUEST_S).members]
    except FutureTimeout:
        raise kafka_failed(settings, KafkaError(KafkaError._TIMED_OUT)) from None  # noqa: SLF001 - the binding's own name
    except KafkaException as error:
        raise kafka_failed(settings, error.args[0]) from None


async def _rewinds(settings: Settings, *, is_older: bool) -> list[Rewind]:
    """Return what is to be read again; a partition that the catalog has no row of is believed unless it is older."""
    behind: list[Rewind] = []
    without_row: list[Rewind] = []
    dsn = settings.postgres_dsn.get_secret_value()
    async with IngestProgress.open(dsn, statement_s_max=settings.postgres_statement_s_max) as progress:
        for group in GROUPS:
            committed, bounds = await asyncio.to_thread(_offsets, settings, group)
            catalog = await progress.positions(list(committed))
            for key, offset in committed.items():
                verdict = judge(position_of(offset, catalog[key], bounds[key]))
                if isinstance(verdict, CatalogBehind):
                    behind.append(Rewind(group, key, verdict.next_offset, offset))
                elif catalog[key].next_offset is None and offset > bounds[key][0]:
                    without_row.append(Rewind(group, key, bounds[key][0], offset))
    return behind + without_row if is_older or behind else []


def _offsets(settings: Settings, group: str) -> tuple[dict[PartitionKey, int], dict[PartitionKey, tuple[int, int]]]:
    """Return what the group has committed, and the bounds of those partitions."""
    with reading_consumer(settings, group, isolation_level="read_uncommitted") as consumer:
        existing = consumer.list_topics(timeout=_REQUEST_S).topics
        topics = input_topics(GROUPS[group].kinds, existing)
        keys = [key for names in topics.values() for topic in names for key in partitions_of(consumer, topic)]
        partitions = consumer.committed([TopicPartition(*key) for key in keys], timeout=_REQUEST_S)
        committed = {(at.topic, at.partition): at.offset for at in partitions if at.offset >= 0}
        return committed, offset_bounds(consumer, committed)


def _move(settings: Settings, group: str, rewinds: list[Rewind]) -> None:
    """Commit in the name of a group that has no members."""
    if not rewinds:
        return
    consumer = Consumer(client_config(settings, group_id=group, enable_auto_commit=False))
    places = [TopicPartition(*rewind.key, rewind.start) for rewind in rewinds]
    try:
        errors = [at.error for at in consumer.commit(offsets=places, asynchronous=False) or () if at.error is not None]
    except KafkaException as error:
        raise kafka_failed(settings, error.args[0]) from None
    finally:
        consumer.close()
    if errors:
        raise kafka_failed(settings, errors[0])


async def _packed(blobs: Blobs, values: Iterable[bytes]) -> list[BlobRow]:
    """Return where announced bodies lie in packs that are in the store; others are put again under the same key."""
    rows: list[BlobRow] = []
    sizes_bytes: dict[str, int] = {}
    for value in values:
        event = decode(value, Ingested)
        if event.store_offset is None:
            continue
        if event.store_key not in sizes_bytes:
            pack = await blobs.stat(event.store_key)
            sizes_bytes[event.store_key] = pack.size_bytes if pack else 0
        if event.store_offset + event.size_bytes <= sizes_bytes[event.store_key]:
            rows.append(
                BlobRow(
                    digest=bytes.fromhex(event.digest),
                    size_bytes=event.size_bytes,
                    media_type=event.media_type,
                    store_key=event.store_key,
                    store_offset=event.store_offset,
                )
            )
    return rows


async def _unknown(settings: Settings) -> AsyncGenerator[dict[UUID, bytes | None]]:
    """Yield the announcements behind the catalog's checkpoints that it does not know; dead letters without a value."""
    dsn = settings.postgres_dsn.get_secret_value()
    published = PublishedOffsets(settings, OUTPUT_TOPICS, with_values=True)
    outbox = await Outbox.open(dsn, may_be_older=True)
    try:
        await asyncio.to_thread(published.open, await outbox.checkpoints())
        while (events := await asyncio.to_thread(published.read)) is not None:
            if events.events and (unknown := await outbox.unknown(events.events)):
                yield {event_id: events.values.get(event_id) for event_id in unknown}
    except ProducerResetError as error:
        code = "topic_refused" if isinstance(error, TopicRefusedError) else "kafka_unreachable"
        raise HeadraceError(code, str(error), where=settings.kafka_bootstrap, exit_code=Exit.UNREACHABLE) from None
    finally:
        await asyncio.to_thread(published.close)
        await outbox.close()
