"""Reading every source for the checker. One that cannot be read raises: what is not known never passes."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import fields
from hashlib import sha256
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import headers_of
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Kind
from headrace.schemas.headers import Redrive, redrive_of
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.errors import BlobMissingError
from headrace.store.postgres import borrowed, opened_pool
from headrace.streams.core.batch_plan import headers_json
from headrace.streams.worker.lag import PartitionOffsets
from headrace.streams.worker.profile import LARGE, SMALL
from tests.faults import observed as seen
from tests.faults.acks import Ack, Acks, Attempt, Description, Place
from tests.faults.listener import Offsets, offsets, read_all, read_to_end
from tests.faults.observed import BytesAt, Observed, Partition, ReceivedMessages, WatchFindings

INPUTS = tuple(input_topic(kind).name for kind in Kind)
READS_AT_ONCE_MAX = 16
CHUNK_BYTES = 4 * 1024 * 1024
STATEMENT_S_MAX = 60.0
_REQUEST_S = 10.0

_SIGHTINGS = """
select topic, partition, "offset", record_id, site, source_id, sequence,
    (extract(epoch from seen_at) * 1000000)::bigint as seen_at_us,
    (extract(epoch from captured_at) * 1000000)::bigint as captured_at_us
from sightings order by topic, partition, "offset", index
"""
_RECORDS = """
select record_id, kind, encode(digest, 'hex') as digest, size_bytes, site, source_id, sequence, media_type,
    (extract(epoch from captured_at) * 1000000)::bigint as captured_at_us,
    (extract(epoch from ingested_at) * 1000000)::bigint as ingested_at_us,
    width, height, duration_us, ldo_id, code, about, attributes::text as attributes
from records
"""
_BLOBS = """
select encode(sha256, 'hex') as digest, size_bytes, store_key, store_offset,
    archived_at is not null as archived, restored_at is not null as restored
from blobs
"""
_LETTERS = """
select dead_letter_id, code, reason, topic, partition, "offset", key, headers::text as headers, record_id,
    encode(sha256(value), 'hex') as value_digest, message_timestamp_us,
    (extract(epoch from rejected_at) * 1000000)::bigint as rejected_at_us
from dead_letters order by topic, partition, "offset"
"""
_REDRIVES = """
select dead_letter_id, attempt, published_at is not null as published, ended_at is not null as ended, record_id
from redrives
"""
_LEARNED = "select event_id::text from announced"
_LOST = "select topic, partition, first_offset, last_offset from lost_ranges"
_UNPUBLISHED = "select count(*) from outbox where published_at is null"


async def gather(
    settings: Settings,
    acks: Sequence[Acks],
    heard: ReceivedMessages,
    watch: WatchFindings,
    *,
    since: Offsets | None = None,
    before: Observed | None = None,
) -> Observed:
    """Read everything; `since` leaves out what stood in the topics before.

    Bodies in objects that have not changed since `before` are not read again.

    Raises whatever keeps a source from being read: CatalogUnavailable, StoreUnavailable, KafkaException,
    TimeoutError; ValueError where the files of acknowledgements contradict themselves.
    """
    attempts, acked = _joined(acks)
    # Where the group is comes first: what it says is finished must be in the catalog, which is read later.
    committed = await asyncio.to_thread(committed_offsets, settings)
    rows = await _catalog(settings)
    letters = tuple(_letter(row) for row in rows["letters"])
    of_letters = frozenset(letter.place for letter in letters)
    messages = await asyncio.to_thread(_messages, settings, of_letters, since)
    begins, _ = await asyncio.to_thread(offsets, settings, INPUTS)
    afterwards = await asyncio.to_thread(read_all, settings, since)
    blobs = Blobs.from_settings(settings)
    objects = [seen.StoredObject(*_stat(stat)) async for stat in blobs.list("")]
    sizes = {stored.key: stored.size_bytes for stored in objects}
    places = {_place_of(row) for row in rows["blobs"]} | {announcement.at for announcement in afterwards.announcements}
    found = _unchanged(places, objects, before) if before is not None else {}
    found |= await _read_places(blobs, {at for at in places - found.keys() if not at.archived}, sizes)
    if settings.archive_url:
        archive = Blobs.from_settings(settings.model_copy(update={"store_url": settings.archive_url}))
        archived = {stat.key: stat.size_bytes async for stat in archive.list("")}
        found |= await _read_places(archive, places - found.keys(), archived)
    return Observed(
        attempts=attempts,
        acks=acked,
        messages=messages,
        sightings=tuple(_sighting(row) for row in rows["sightings"]),
        records={row["record_id"]: _record(row) for row in rows["records"]},
        blobs={row["digest"]: _blob(row, found) for row in rows["blobs"]},
        objects=tuple(objects),
        dead_letters=letters,
        redrives={Redrive(row[0], row[1]): seen.ObservedRedrive(row[2], row[3], row[4]) for row in rows["redrives"]},
        unpublished=int(rows["unpublished"][0][0]),
        live=heard,
        afterwards=afterwards,
        committed=committed,
        watch=watch,
        gathered_at_us=time.time_ns() // 1000,
        announced_bytes=found,
        begins=begins,
        lost=tuple(seen.LostOffsets(*row) for row in rows["lost"]),
        learned=frozenset(row[0] for row in rows["learned"]),
    )


def _joined(files: Iterable[Acks]) -> tuple[dict[int, Attempt], tuple[Ack, ...]]:
    attempts: dict[int, Attempt] = {}
    acks: list[Ack] = []
    for acks_file in files:
        if twice := attempts.keys() & acks_file.attempts.keys():
            raise ValueError(f"two workloads have used the number {min(twice)}")
        attempts |= acks_file.attempts
        acks += acks_file.acks
    places: set[Place] = set()
    for ack in acks:
        if ack.number not in attempts:
            raise ValueError(f"number {ack.number} was acknowledged but never attempted")
        if ack.place in places:
            raise ValueError(f"two messages were acknowledged at {ack.place}")
        places.add(ack.place)
    return attempts, tuple(acks)


def committed_offsets(settings: Settings) -> dict[Partition, int]:
    """Return how far the worker groups have finished; raises KafkaException."""
    offsets: dict[Partition, int] = {}
    for group in (SMALL, LARGE):
        consumer = Consumer(client_config(settings, group_id=group.name, enable_auto_commit=False))
        try:
            topics = consumer.list_topics(timeout=_REQUEST_S).topics
            places = [
                TopicPartition(name, number)
                for name in (input_topic(kind).name for kind in sorted(group.kinds))
                for number in topics[name].partitions
            ]
            for committed in consumer.committed(places, timeout=_REQUEST_S):
                if committed.error is not None:
                    raise KafkaException(committed.error)
                offsets[Partition(committed.topic, committed.partition)] = max(committed.offset, 0)
        finally:
            consumer.close()
    return offsets


def lag(settings: Settings, begins: Offsets, ends: Offsets) -> int:
    """Return how many offsets of these bounds the worker groups have not finished; raises KafkaException."""
    committed = committed_offsets(settings)
    return sum(PartitionOffsets.within(committed[at], (begins[at], end)).lag for at, end in ends.items())


def _messages(settings: Settings, of_letters: frozenset[Place], since: Offsets | None) -> dict[Place, seen.Message]:
    messages: dict[Place, seen.Message] = {}

    def take(message: Message) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        place = Place(topic, partition, offset)
        headers: Any = headers_of(message) or []
        key, redrive, timestamp_us = message.key(), redrive_of(headers), message.timestamp()[1] * 1000
        if place not in of_letters:
            messages[place] = seen.Message(key, redrive, timestamp_us=timestamp_us)
            return
        value = message.value()
        digest = None if value is None else sha256_hex(value)
        pairs = tuple((name, value if value is not None else b"") for name, value in headers)
        messages[place] = seen.Message(key, redrive, digest, headers_json(pairs), timestamp_us)

    read_to_end(settings, INPUTS, take, since)
    return messages


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Any]:
    dsn = settings.postgres_dsn.get_secret_value()
    async with (
        opened_pool(dsn, connections_max=1, statement_s_max=STATEMENT_S_MAX, application="headrace faults") as pool,
        borrowed(pool, dsn) as connection,
    ):
        yield connection


async def _catalog(settings: Settings) -> dict[str, list[Any]]:
    texts = {
        "sightings": _SIGHTINGS,
        "records": _RECORDS,
        "blobs": _BLOBS,
        "letters": _LETTERS,
        "redrives": _REDRIVES,
        "lost": _LOST,
        "learned": _LEARNED,
        "unpublished": _UNPUBLISHED,
    }
    # One look at all tables: two looks while something moves would contradict each other.
    async with (
        _connected(settings) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        return {name: list(await connection.fetch(text)) for name, text in texts.items()}


def _sighting(row: Any) -> seen.ObservedSighting:
    place = Place(row["topic"], row["partition"], row["offset"])
    return seen.ObservedSighting(
        place,
        row["record_id"],
        row["site"],
        row["source_id"],
        row["sequence"],
        row["seen_at_us"],
        row["captured_at_us"],
    )


def _record(row: Any) -> seen.Record:
    says = Description(**{field.name: row[field.name] for field in fields(Description)})
    return seen.Record(
        row["record_id"],
        Kind(row["kind"]),
        row["digest"],
        row["size_bytes"],
        row["source_id"],
        row["sequence"],
        row["ingested_at_us"],
        says,
    )


def _letter(row: Any) -> seen.Letter:
    place = Place(row["topic"], row["partition"], row["offset"])
    return seen.Letter(
        row["dead_letter_id"],
        row["code"],
        row["reason"],
        place,
        row["key"],
        row["value_digest"],
        row["headers"].encode(),
        row["record_id"],
        row["message_timestamp_us"],
        row["rejected_at_us"],
    )


def _stat(stat: Any) -> tuple[str, int, int]:
    return stat.key, stat.size_bytes, int(stat.modified_at.timestamp() * 1_000_000)


def _place_of(row: Any) -> BytesAt:
    return BytesAt(row["store_key"], row["store_offset"], row["size_bytes"], row["archived"])


def _blob(row: Any, found: Mapping[BytesAt, seen.StoredBytes | None]) -> seen.Blob:
    at, moved = _place_of(row), row["archived"] or row["restored"]
    return seen.Blob(row["digest"], at.size_bytes, at.store_key, at.store_offset, found[at], moved)


def _unchanged(
    places: AbstractSet[BytesAt], objects: Iterable[seen.StoredObject], before: Observed
) -> dict[BytesAt, seen.StoredBytes | None]:
    same = {stored.key for stored in {*objects} & {*before.objects}}
    known = before.announced_bytes
    return {at: known[at] for at in places & known.keys() if at.store_key in same and not at.archived}


async def _read_places(
    blobs: Blobs, places: Iterable[BytesAt], sizes: Mapping[str, int]
) -> dict[BytesAt, seen.StoredBytes | None]:
    """Read every body as it lies in the store, few at a time and none of them kept."""
    by_key: dict[str, list[BytesAt]] = defaultdict(list)
    for at in places:
        by_key[at.store_key].append(at)
    found: dict[BytesAt, seen.StoredBytes | None] = {}
    waiting = iter(sorted(by_key.items()))

    async def work() -> None:
        for key, members in waiting:
            found.update(zip(members, await _read(blobs, key, members, sizes.get(key, 0)), strict=True))

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(READS_AT_ONCE_MAX):
                tasks.create_task(work())
    except ExceptionGroup as group:
        # The first one says why; the others say the same.
        raise group.exceptions[0] from None
    return found


async def _read(blobs: Blobs, key: str, members: Sequence[BytesAt], size_bytes: int) -> list[seen.StoredBytes | None]:
    try:
        if all(at.store_offset is None for at in members):
            whole = await _whole(blobs, key, size_bytes)
            return [whole for _ in members]
        pack = await blobs.get(key)
    except BlobMissingError:
        return [None for _ in members]
    return [_part(pack, at) for at in members]


async def _whole(blobs: Blobs, key: str, size_bytes: int) -> seen.StoredBytes:
    if size_bytes <= CHUNK_BYTES:
        body = await blobs.get(key)
        return seen.StoredBytes(len(body), sha256_hex(body))
    digest, found_bytes = sha256(), 0
    async for chunk in blobs.stream(key, CHUNK_BYTES):
        await asyncio.to_thread(digest.update, chunk)
        found_bytes += len(chunk)
    return seen.StoredBytes(found_bytes, digest.hexdigest())


def _part(pack: bytes, at: BytesAt) -> seen.StoredBytes:
    if at.store_offset is None:
        return seen.StoredBytes(len(pack), sha256_hex(pack))
    # A body that the end of the pack cuts off shows as too short.
    body = pack[at.store_offset :][: at.size_bytes]
    return seen.StoredBytes(len(body), sha256_hex(body))
