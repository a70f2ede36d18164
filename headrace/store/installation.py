"""Which installation a catalog, a Kafka and a store belong to; all processes and the commands that write compare them.

`headrace init` gives an installation a random id. It is in the catalog's table `installation`, in the last message of a
compacted topic, and in a small object of the store. So two installations on one Kafka, two Kafkas on one catalog, or
another bucket are refused before anything is written. The epoch grows with each `headrace recover`: a catalog with a
lower one than Kafka or the store is an older copy. So may be one that is on another PostgreSQL server, or on a server
that was promoted since: its system identifier or its timeline differ.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import orjson
from confluent_kafka import KafkaError, Producer

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import DeliveryErrors, client_config, kafka_failed
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.topics import INSTALLATION_TOPIC
from headrace.store.blobs.blob_store import Blobs
from headrace.store.errors import BlobMissingError, CatalogRevertedError, address
from headrace.store.postgres import connected, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Connection

STORE_KEY = "installation/headrace.json"
_KEY = b"installation"
_APPLICATION = "headrace identity"
_GROUP = "headrace-installation"  # librdkafka wants one; nothing is ever committed to it
_REQUEST_S = 10.0


@dataclass(frozen=True, slots=True)
class Mark:
    """What Kafka and the store have of an installation."""

    installation_id: UUID
    epoch: int


@dataclass(frozen=True, slots=True)
class KafkaIdentity:
    """A Kafka cluster and the installation that marked it; None if there is none."""

    cluster_id: str
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class CatalogIdentity:
    """The catalog's row, and the PostgreSQL server that it is on now."""

    installation_id: UUID
    epoch: int
    system_identifier: str
    timeline: int
    kafka_cluster_id: str
    complete: bool
    recovering: bool
    server: str
    server_timeline: int

    @property
    def mark(self) -> Mark:
        """Return what Kafka and the store should have."""
        return Mark(self.installation_id, self.epoch)


async def require_installation(settings: Settings, blobs: Blobs, *, has_catalog: bool = True) -> None:
    """Check that catalog, Kafka and store belong to one installation, and that the catalog is not an older copy.

    Raises:
        HeadraceError: they do not, or `headrace init` has not been run. CatalogRevertedError: the catalog may be older.
    """
    kafka = await asyncio.to_thread(kafka_identity, settings)
    store = await store_mark(blobs)
    catalog = await catalog_identity(settings) if has_catalog else None
    if kafka.mark is None or (has_catalog and (catalog is None or not catalog.complete)):
        raise _missing(settings.kafka_bootstrap if kafka.mark is None else _dsn(settings))
    if catalog is not None:
        _same_kafka(settings, catalog, kafka)
    store = _same_store(blobs, catalog.mark if catalog else kafka.mark, store)
    if catalog is not None:
        _require_newest(settings, catalog, [kafka.mark, store])


async def require_store(settings: Settings, blobs: Blobs) -> None:
    """Check that the store is the catalog's, and the catalog not an older copy, for commands that need no Kafka.

    Raises:
        HeadraceError: they do not belong together, or `headrace init` has not been run. CatalogRevertedError: the
            catalog may be older.
    """
    store = await store_mark(blobs)
    catalog = await catalog_identity(settings)
    if catalog is None or not catalog.complete:
        raise _missing(_dsn(settings))
    _require_newest(settings, catalog, [_same_store(blobs, catalog.mark, store)])


@dataclass(frozen=True, slots=True)
class OlderReasons:
    """The installation, the highest epoch that any of its parts has, and why its catalog may be an older copy."""

    installation_id: UUID
    kafka_cluster_id: str
    newest_epoch: int
    reasons: tuple[str, ...]


async def older_reasons(settings: Settings, blobs: Blobs) -> OlderReasons:
    """Return why the catalog may be an older copy; it may also be from before it had an identity.

    Raises:
        HeadraceError: catalog, Kafka and store belong to different installations, or to none.
    """
    kafka = await asyncio.to_thread(kafka_identity, settings)
    store = await store_mark(blobs)
    catalog = await catalog_identity(settings)
    expected = catalog.mark if catalog is not None else kafka.mark
    if expected is None:
        raise _missing(settings.kafka_bootstrap)
    store = _same_store(blobs, expected, store)
    marks = [store] if kafka.mark is None else [kafka.mark, store]
    if catalog is None:
        reasons = ["it is from before it had an identity"]
    else:
        _same_kafka(settings, catalog, kafka)
        reasons = _older(catalog, marks)
    newest = max(mark.epoch for mark in (*marks, expected))
    return OlderReasons(expected.installation_id, kafka.cluster_id, newest, tuple(reasons))


async def adopt(settings: Settings, blobs: Blobs) -> UUID:
    """Give an installation its identity, or check the one that it has; return its id. May be repeated.

    Raises:
        HeadraceError: Kafka or the store belong to another installation.
    """
    kafka = await asyncio.to_thread(kafka_identity, settings)
    store = await store_mark(blobs)
    catalog = await catalog_identity(settings)
    if catalog is None:
        for mark, where in ((kafka.mark, settings.kafka_bootstrap), (store, blobs.where)):
            if mark is not None:
                raise _foreign(f"it belongs to the installation {mark.installation_id}, and the catalog to none", where)
        await _execute(settings, "create", uuid4(), kafka.cluster_id)
        catalog = await catalog_identity(settings)
        assert catalog is not None, "it was created above"
    _same_kafka(settings, catalog, kafka)
    if store is not None or catalog.complete:
        _same_store(blobs, catalog.mark, store)
    if kafka.mark is None:
        await asyncio.to_thread(mark_kafka, settings, catalog.mark)
    if store is None:
        await mark_store(blobs, catalog.mark)
    await _execute(settings, "complete")
    return catalog.installation_id


async def catalog_identity(settings: Settings) -> CatalogIdentity | None:
    """Return the catalog's identity, or None if it has none.

    Raises:
        CatalogUnavailableError, CatalogRefusedError.
    """
    dsn = settings.postgres_dsn.get_secret_value()
    async with connected(dsn, statement_s_max=_REQUEST_S, application=_APPLICATION) as connection:
        row = await connection.fetchrow(statements("installation")["read"])
    return None if row is None else CatalogIdentity(*row)


async def check_server(dsn: str, connection: "Connection") -> None:
    """Check that the server is the one that the catalog was last known on; for each new connection.

    Raises:
        CatalogRevertedError: it is another one, or was promoted since.
    """
    try:
        is_same = await connection.fetchval(statements("installation")["same_server"])
    except asyncpg.UndefinedTableError:
        return  # a database that is not migrated yet: whoever uses it says so
    if is_same is False:
        raise CatalogRevertedError(_OTHER_SERVER, where=address(dsn))


def kafka_identity(settings: Settings) -> KafkaIdentity:
    """Return the id of the Kafka cluster, and the installation that marked it; blocks.

    Raises:
        HeadraceError: Kafka does not answer.
    """
    with reading_consumer(settings, _GROUP) as consumer:
        metadata = consumer.list_topics(timeout=_REQUEST_S)
        cluster_id = str(metadata.cluster_id)
        if INSTALLATION_TOPIC not in metadata.topics:
            return KafkaIdentity(cluster_id, None)
        bounds = offset_bounds(consumer, partitions_of(consumer, INSTALLATION_TOPIC))
        values = [message.value() for message in TopicReader(consumer, bounds)]
    return KafkaIdentity(cluster_id, _mark(values[-1]) if values and values[-1] else None)


def mark_kafka(settings: Settings, mark: Mark) -> None:
    """Write an installation's mark to Kafka; blocks, may be repeated.

    Raises:
        HeadraceError: Kafka does not answer.
    """
    errors = DeliveryErrors()
    producer = Producer(client_config(settings, acks="all", message_timeout_ms=round(_REQUEST_S * 1000)))
    producer.produce(INSTALLATION_TOPIC, _json(mark), _KEY, on_delivery=errors.note)
    left = producer.flush(2 * _REQUEST_S)
    if errors.first is not None or left:
        timed_out = KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - the binding's own name
        raise kafka_failed(settings, errors.first or timed_out)


async def store_mark(blobs: Blobs) -> Mark | None:
    """Return the mark of the store, or None if it has none.

    Raises:
        StoreUnavailableError, StoreRefusedError.
    """
    try:
        return _mark(await blobs.get(STORE_KEY))
    except BlobMissingError:
        return None


async def mark_store(blobs: Blobs, mark: Mark) -> None:
    """Write an installation's mark to the store; may be repeated.

    Raises:
        StoreUnavailableError, StoreRefusedError.
    """
    await blobs.replace(STORE_KEY, _json(mark), media_type="application/json")


_OTHER_SERVER = "it is on another PostgreSQL server than before, or on one that was promoted since"


def _same_kafka(settings: Settings, catalog: CatalogIdentity, kafka: KafkaIdentity) -> None:
    mine = catalog.installation_id
    if kafka.mark is not None and kafka.mark.installation_id != mine:
        raise _foreign(
            f"this Kafka belongs to the installation {kafka.mark.installation_id}, and the catalog to {mine}",
            settings.kafka_bootstrap,
        )
    if kafka.cluster_id != catalog.kafka_cluster_id:
        raise _foreign(
            f"this is the Kafka cluster {kafka.cluster_id}, and the catalog of the installation {mine} belongs to "
            f"{catalog.kafka_cluster_id}",
            settings.kafka_bootstrap,
        )


def _same_store(blobs: Blobs, expected: Mark, store: Mark | None) -> Mark:
    """Return the store's mark, which is one of the expected installation."""
    if store is None or store.installation_id != expected.installation_id:
        owner = "no installation" if store is None else f"the installation {store.installation_id}"
        raise _foreign(f"this store belongs to {owner}, and not to {expected.installation_id}", blobs.where)
    return store


def _require_newest(settings: Settings, catalog: CatalogIdentity, marks: Iterable[Mark]) -> None:
    if reasons := _older(catalog, marks):
        raise CatalogRevertedError(reasons[0], where=_dsn(settings))


def _older(catalog: CatalogIdentity, marks: Iterable[Mark]) -> list[str]:
    reasons = []
    newest = max(mark.epoch for mark in marks)
    if catalog.recovering:
        reasons.append("a recovery was interrupted")
    if newest > catalog.epoch:
        reasons.append(f"it is of epoch {catalog.epoch}, and a later one is {newest}")
    if (catalog.server, catalog.server_timeline) != (catalog.system_identifier, catalog.timeline):
        reasons.append(
            f"{_OTHER_SERVER} (system {catalog.server} on timeline {catalog.server_timeline}, before "
            f"{catalog.system_identifier} on {catalog.timeline})"
        )
    return reasons


def _missing(where: str) -> HeadraceError:
    return HeadraceError(
        "installation_missing",
        "this installation has no identity yet",
        where=where,
        hint="run `headrace init` once, with the settings of the service",
        exit_code=Exit.UNREACHABLE,
    )


def _foreign(what: str, where: str) -> HeadraceError:
    return HeadraceError(
        "installation_foreign",
        what,
        where=where,
        hint="each installation needs a Kafka, a catalog and a bucket (or prefix) of its own; correct the settings",
        exit_code=Exit.USAGE,
    )


async def _execute(settings: Settings, statement: str, *values: object) -> None:
    dsn = settings.postgres_dsn.get_secret_value()
    async with connected(dsn, statement_s_max=_REQUEST_S, application=_APPLICATION) as connection:
        await connection.execute(statements("installation")[statement], *values)


def _mark(data: bytes) -> Mark:
    fields = orjson.loads(data)
    return Mark(UUID(fields["installation"]), int(fields["epoch"]))


def _json(mark: Mark) -> bytes:
    return orjson.dumps({"installation": str(mark.installation_id), "epoch": mark.epoch})


def _dsn(settings: Settings) -> str:
    return address(settings.postgres_dsn.get_secret_value())
