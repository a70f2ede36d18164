"""`headrace maintenance`: carries out the jobs of each day. Several may run; an advisory lock lets one work."""

import asyncio
import shutil
import time
from contextlib import suppress

from headrace.batch.maintenance.jobs import JOBS
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import wait_for_kafka
from headrace.runtime.liveness import liveness
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import (
    maintenance_disk_free_bytes,
    maintenance_runs_total,
    maintenance_succeeded_timestamp_seconds,
)
from headrace.runtime.settings import MaintenanceJob, Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.maintenance_runs import DueJob, MaintenanceRuns
from headrace.store.catalog.sessions import try_leader_lock
from headrace.store.errors import CatalogRevertedError
from headrace.store.installation import require_installation
from headrace.store.locks import MAINTENANCE_LOCK

POLL_S = 30.0
RETRY_S = 600.0  # after a job failed


class Maintenance:
    """Looks for due jobs and carries them out; `doing` is the current one."""

    def __init__(self, settings: Settings, runs: MaintenanceRuns) -> None:
        """Work with an open table of runs."""
        self._settings = settings
        self._runs = runs
        self._not_before_s: dict[str, float] = {}
        self.doing = "waiting for the next job"

    async def run(self, stop: asyncio.Event) -> int:
        """Carry out jobs until `stop` is set; a job that is stopped begins again later.

        Raises:
            CatalogRevertedError: the catalog may be an older copy; nothing may be deleted.
        """
        while not stop.is_set():
            working, stopping = asyncio.create_task(self._work()), asyncio.create_task(stop.wait())
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not working.done():
                working.cancel()
                with suppress(asyncio.CancelledError):
                    await working
                break
            working.result()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_S)
        return Exit.OK

    async def _work(self) -> None:
        """Carry out the jobs that are due, unless another process does."""
        try:
            jobs = await self._due()
            dsn = self._settings.postgres_dsn.get_secret_value()
            lock = await try_leader_lock(dsn, MAINTENANCE_LOCK) if jobs else None
        except HeadraceError as error:
            get_log().warning(Action.RETRYING, service="postgres", why=error.what)
            return
        if lock is None:
            return
        try:
            # Again, because another process may have done them before it gave the lock back.
            for job in await self._due():
                await self._carry_out(job)
        finally:
            await lock.release()

    async def _due(self) -> list[DueJob]:
        wanted = self._settings.maintenance_jobs.split(",")
        names = [job for job in JOBS if job in wanted and self._not_before_s.get(job, 0) <= time.monotonic()]
        return await self._runs.due(names, self._settings.maintenance_hour)

    async def _carry_out(self, job: DueJob) -> None:
        self.doing = job.name
        try:
            done = await JOBS[MaintenanceJob(job.name)](self._settings)
            await self._runs.succeeded(job)
        except CatalogRevertedError:
            raise
        except HeadraceError as error:
            self._failed(job, error.what)
        except Exception as error:  # noqa: BLE001 - the other jobs must run whatever failed in this one
            self._failed(job, type(error).__name__, error)
        else:
            get_log().info(Action.MAINTAINED, job=job.name, **done)
            maintenance_runs_total.labels(job.name, "succeeded").inc()
            maintenance_succeeded_timestamp_seconds.labels(job.name).set(job.at.timestamp())
        finally:
            self.doing = "waiting for the next job"

    def _failed(self, job: DueJob, why: str, error: Exception | None = None) -> None:
        self._not_before_s[job.name] = time.monotonic() + RETRY_S
        maintenance_runs_total.labels(job.name, "failed").inc()
        get_log().error(Action.RETRYING, job=job.name, why=why, again_in_s=RETRY_S, exc_info=error)


async def maintain(settings: Settings, stop: asyncio.Event) -> int:
    """Carry out what an installation needs every day, until `stop` is set; returns the exit code.

    Raises:
        HeadraceError: Kafka, PostgreSQL or the store is unavailable at the start, or the catalog may be an older copy.
    """
    await wait_for_kafka(settings, stop=stop)
    async with MaintenanceRuns.open(settings.postgres_dsn.get_secret_value()) as runs:
        await require_installation(settings, Blobs.from_settings(settings))
        maintenance = Maintenance(settings, runs)
        async with liveness(
            settings,
            # A job may take hours, and each of its statements and requests has a deadline of its own.
            waiting=lambda: False,
            progress=lambda: maintenance.doing,
            doing=lambda: maintenance.doing,
            probes={"postgres": runs.check},
        ):
            get_log().info(Action.STARTED)
            if settings.state_dir.is_dir():
                maintenance_disk_free_bytes.set_function(lambda: shutil.disk_usage(settings.state_dir).free)
            return await maintenance.run(stop)
