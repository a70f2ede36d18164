"""A site that ingests for itself, and a centre that brings its bodies: two catalogs, two stores, one cluster."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.runtime.crash_points import Reached, nowhere
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.events import InputEvent, Kind, kind_of
from headrace.schemas.mirrored import SitePosition, origin_header
from headrace.schemas.topics import ingested_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import StagedBodies
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.outbox import Outbox
from headrace.store.catalog.queries import Queries
from headrace.store.catalog.transfers import Transfers
from headrace.streams.relay.announcement import announce
from headrace.streams.transfer.announcements import SiteAnnouncements
from headrace.streams.transfer.body_files import BodyFiles
from headrace.streams.transfer.site_link import Pace, SiteLink, TransferPorts
from headrace.streams.worker.ingest import Ingest
from headrace.streams.worker.ports import IngestPorts
from headrace.streams.worker.retry import Retry, RetryPolicy
from tests.streams.streams_samples import delivery

RETRY = Retry(RetryPolicy(0.02, 0.2, 30.0))
ARRIVES_S_MAX = 60.0
MESSAGE_BYTES_MAX = 1024 * 1024


class Place:
    """A catalog and a store of its own, into which events are ingested as a worker does."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self.settings = settings
        self.catalog = catalog
        self.blobs = Blobs.from_settings(settings)
        self._offset = 0

    async def ingest(self, *events: InputEvent) -> None:
        ingest = Ingest(IngestPorts(self.blobs, StagedBodies(self.blobs), self.catalog), retry=RETRY)
        for event in events:
            decoded = await ingest.decode(kind_of(event), [delivery(event, offset=self._offset)])
            self._offset += 1
            assert not decoded.rejected
            await ingest.commit((await ingest.store_bodies(decoded)).rows)


class Site(Place):
    """A site, whose announcements a mirror writes to the centre's cluster."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        super().__init__(settings, catalog)
        self.name = f"site-{uuid4().hex[:8]}"
        self.announced: list[UUID] = []
        self._producer = Producer(client_config(settings, acks="all"))
        self._offsets: dict[str, int] = {}

    @property
    def topics(self) -> list[str]:
        return [f"{self.name}.{ingested_topic(kind).name}" for kind in Kind]

    async def mirror(self) -> int:
        """Announce what is to be announced, as the relay and the mirror do; returns how many records."""
        outbox = await Outbox.open(self.settings.postgres_dsn.get_secret_value())
        count = 0
        try:
            for kind in Kind:
                topic = ingested_topic(kind).name
                rows = await outbox.pending(topic, 1000)
                for row in rows:
                    message = announce(row, MESSAGE_BYTES_MAX)
                    self.write(topic, message.value, message.headers)
                    self.announced.append(row.event_id)
                await outbox.mark([row.outbox_id for row in rows])
                count += len(rows)
        finally:
            await outbox.close()
        self.flush()
        return count

    def write(self, topic: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        offset = self._offsets[topic] = self._offsets.get(topic, -1) + 1
        origin = origin_header(SitePosition(self.name, topic, 0, offset))

        def delivered(error: KafkaError | None, _message: Message) -> None:
            assert error is None, error

        self._producer.produce(
            f"{self.name}.{topic}", value, partition=0, headers=[*headers, origin], on_delivery=delivered
        )

    def flush(self) -> None:
        assert self._producer.flush(30) == 0


class Centre(Place):
    """A centre with the means of `headrace transfer`, step by step."""

    def __init__(self, settings: Settings, catalog: Catalog, transfers: Transfers, queries: Queries) -> None:
        super().__init__(settings, catalog)
        self.transfers = transfers
        self.queries = queries

    async def hear(self, site: Site, records: int) -> None:
        """Take up announcements until so many were added."""
        stop, count = asyncio.Event(), 0
        announcements = SiteAnnouncements(self.settings, self.catalog, [site.name], RETRY)

        async def look() -> None:
            nonlocal count
            while count < records:
                await asyncio.sleep(0.05)
                listed = await self.queries.list_records(filters=_of_site(site), cursor=None, limit=1000)
                count = len(listed.records)
            stop.set()

        async with asyncio.timeout(ARRIVES_S_MAX), asyncio.TaskGroup() as group:
            group.create_task(announcements.run(stop, added=lambda: None))
            group.create_task(look())

    def link(
        self,
        site: Site,
        directory: Path,
        store: Blobs | None = None,
        *,
        pace: Pace | None = None,
        reached: Reached = nowhere,
    ) -> SiteLink:
        """The link of a site; `store` is how its store is reached, and `reached` is called at each crash point."""
        files = BodyFiles(directory, store or site.blobs, reached=reached)
        ports = TransferPorts(self.catalog, self.blobs, self.transfers)
        return SiteLink(site.name, ports, files, pace or Pace(), reached=reached)

    async def bring_all(self, link: SiteLink) -> None:
        async with asyncio.timeout(ARRIVES_S_MAX):
            while not await link.bring_next():
                pass


def _of_site(site: Site) -> Any:
    from headrace.store.catalog.views import RecordFilters

    return RecordFilters(site=site.name)


@asynccontextmanager
async def site_and_centre(at_site: Settings, at_centre: Settings) -> AsyncIterator[tuple[Site, Centre]]:
    """Open both, with the mirrored topics of the site, and clean up."""
    dsn = at_centre.postgres_dsn.get_secret_value()
    async with AsyncExitStack() as stack:
        catalogs = []
        for settings in (at_site, at_centre):
            catalogs.append(await Catalog.open(settings.postgres_dsn.get_secret_value()))
            stack.push_async_callback(catalogs[-1].close)
        queries = await Queries.open(dsn)
        stack.push_async_callback(queries.close)
        transfers = await stack.enter_async_context(Transfers.open(dsn, statement_s_max=20.0))
        site = Site(at_site, catalogs[0])
        admin = AdminClient(client_config(at_centre))
        for made in admin.create_topics([NewTopic(name, 1, 1) for name in site.topics]).values():
            made.result(30)
        yield site, Centre(at_centre, catalogs[1], transfers, queries)
        for deleted in admin.delete_topics(site.topics).values():
            deleted.result(30)


class CountingProxy:
    """Passes TCP connections on to a server, and counts the bytes of both directions."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.bytes = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self._target)
        await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.bytes += len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
