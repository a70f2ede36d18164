"""`headrace transfer`: brings from sites what they have ingested and announced. Several may run; one works."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from headrace.runtime import metrics
from headrace.runtime.background_task import first
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import wait_for_kafka
from headrace.runtime.liveness import ask_kafka, liveness
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.store.catalog.sessions import LeaderLock, listen, try_leader_lock
from headrace.store.catalog.transfers import TRANSFER_CHANNEL, Transfers
from headrace.store.errors import CatalogUnavailableError
from headrace.store.locks import TRANSFER_LOCK
from headrace.streams.transfer.announcements import SiteAnnouncements
from headrace.streams.transfer.body_files import BodyFiles
from headrace.streams.transfer.site_link import Pace, SiteLink, TransferPorts
from headrace.streams.transfer.sites import SiteTable, read_sites
from headrace.streams.worker.app import opened_stores
from headrace.streams.worker.retry import HaltError, Retry, RetryPolicy

STANDBY_S = 1.0
COUNT_S = 10.0


async def transfer(settings: Settings, stop: asyncio.Event) -> int:
    """Bring bodies, or be on standby while another process does, until `stop` is set; returns the exit code.

    Raises:
        HeadraceError: the file of sites is invalid, or a service is unavailable at the start or refuses.
    """
    sites = read_sites(settings.transfer_sites)
    admin = await wait_for_kafka(settings, stop=stop)
    dsn = settings.postgres_dsn.get_secret_value()
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened_stores(settings, stop))
        transfers = await stack.enter_async_context(
            Transfers.open(dsn, statement_s_max=settings.postgres_statement_s_max, connections_max=2)
        )
        ports = TransferPorts(stores.catalog, stores.blobs, transfers)
        links = [_link(settings, name, table, ports) for name, table in sites.items()]
        policy = RetryPolicy(settings.retry_delay_s, settings.retry_delay_s_max, settings.processing_deadline_s)
        announcements = SiteAnnouncements(settings, stores.catalog, sites, Retry(policy))
        await stack.enter_async_context(
            liveness(
                settings,
                # A link may be slow or closed for hours; each request has a deadline of its own.
                waiting=lambda: False,
                progress=lambda: [link.steps for link in links],
                doing=lambda: "bringing bodies, or waiting for them",
                probes={
                    "store": stores.blobs.check,
                    "postgres": stores.catalog.check,
                    "kafka": lambda: ask_kafka(settings, admin),
                },
            )
        )
        get_log().info(Action.STARTED, sites=sorted(sites))
        while not stop.is_set():
            lock = await _lock(dsn, stop)
            if lock is None:
                break
            try:
                code = await Term(dsn, announcements, links, transfers).run(lock, stop)
            finally:
                await lock.release()
            if code is not None:
                return code
    return Exit.OK


@dataclass(frozen=True, slots=True)
class Term:
    """What the process does while it holds the lock."""

    dsn: str
    announcements: SiteAnnouncements
    links: Sequence[SiteLink]
    transfers: Transfers

    async def run(self, lock: LeaderLock, stop: asyncio.Event) -> int | None:
        """Work until `stop` is set; returns the exit code after a fault, or None, also once the lock is lost.

        Raises:
            HeadraceError: Kafka refuses.
        """
        get_log().info(Action.LEADING)
        over = asyncio.Event()
        working = [
            asyncio.create_task(self.announcements.run(over, added=self._wake), name="announcements"),
            *(asyncio.create_task(link.run(over)) for link in self.links),
            asyncio.create_task(self._listen(over)),
            asyncio.create_task(self._count(over)),
        ]
        ending = [asyncio.create_task(stop.wait()), asyncio.create_task(lock.lost.wait())]
        try:
            await asyncio.wait([*working, *ending], return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.set()
            for task in [*working[1:], *ending]:  # what a link has written stays; the consumer leaves its group
                task.cancel()
            await asyncio.wait([*working, *ending])
        for task in working:
            error = None if task.cancelled() else task.exception()
            if isinstance(error, HaltError):
                get_log().error(Action.HALTED, why=str(error))
                return error.exit_code
            if error is not None:
                raise error
        return None

    def _wake(self) -> None:
        for link in self.links:
            link.wake.set()

    async def _listen(self, over: asyncio.Event) -> None:
        """Wake the links when a body is asked for."""
        async with listen(self.dsn, TRANSFER_CHANNEL) as listener:
            while not over.is_set():
                await first(None, listener.notified, over)
                listener.notified.clear()
                self._wake()

    async def _count(self, over: asyncio.Event) -> None:
        while not over.is_set():
            with suppress(HeadraceError):
                waiting = {row.site: row for row in await self.transfers.waiting()}
                for link in self.links:
                    row = waiting.get(link.site)
                    metrics.transfer_waiting_bodies.labels(link.site).set(row.bodies if row else 0)
                    metrics.transfer_waiting_bytes.labels(link.site).set(row.size_bytes if row else 0)
            await first(COUNT_S, over)


def _link(settings: Settings, site: str, table: SiteTable, ports: TransferPorts) -> SiteLink:
    files = BodyFiles(settings.transfer_dir / site, table.opened())
    return SiteLink(site, ports, files, Pace(tuple(table.hours_limits())))


async def _lock(dsn: str, stop: asyncio.Event) -> LeaderLock | None:
    """Wait for the lock; return None once `stop` is set."""
    while not stop.is_set():
        with suppress(CatalogUnavailableError):
            if (lock := await try_leader_lock(dsn, TRANSFER_LOCK)) is not None:
                return lock
        await first(STANDBY_S, stop)
    return None
