"""The jobs of each day are carried out by the service itself: once, whoever else runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from headrace.batch.maintenance.app import Maintenance
from headrace.batch.maintenance.jobs import retain_by_rules
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import MaintenanceJob, Settings
from headrace.schemas.digest import blob_key, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs import staging
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.maintenance_runs import MaintenanceRuns
from tests.batch.batch_samples import Line, frame
from tests.batch.fsck.damage import overwrite
from tests.servers import mark_own
from tests.waiting import until_async

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]

JOBS = [job.value for job in MaintenanceJob]
YESTERDAY = "update maintenance_runs set succeeded_at = now() - interval '25 hours'"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A part of the bucket that no other test has; and no grace, since nothing here is old."""
    own = f"{settings.store_url}/{uuid4().hex}"
    no_grace = {"collect_grace_hours": 0.0, "staging_retention_days": 0.0}
    return settings.model_copy(update={"store_url": own, "archive_url": f"{own}/archive", **no_grace})


@pytest.fixture
async def blobs(settings: Settings) -> Blobs:
    """The store, which belongs to the installation."""
    await mark_own(settings)
    return Blobs.from_settings(settings)


@pytest.fixture
async def runs(postgres_dsn: str) -> AsyncIterator[MaintenanceRuns]:
    async with MaintenanceRuns.open(postgres_dsn) as opened:
        yield opened


@asynccontextmanager
async def running(settings: Settings, runs: MaintenanceRuns, *, processes: int = 1) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(Maintenance(settings, runs).run(stop)) for _ in range(processes)]
    yield
    stop.set()
    assert await asyncio.gather(*tasks) == [0] * processes


def succeeded(job: str) -> float:
    labels = {"task": job, "outcome": "succeeded"}
    return REGISTRY.get_sample_value("headrace_maintenance_runs_total", labels) or 0


async def test_a_job_is_due_once_a_day(runs: MaintenanceRuns, sql: Any) -> None:
    assert await runs.due(JOBS, 0) == [], "an upgrade starts nothing at once"
    await sql.execute(YESTERDAY)
    due = await runs.due(JOBS, 5)
    assert [job.name for job in due] == JOBS
    await runs.succeeded(due[0])
    assert [job.name for job in await runs.due(JOBS, 5)] == JOBS[1:]
    assert [job.name for job in await runs.due(JOBS[2:], 5)] == JOBS[2:]


async def test_an_hour_that_has_not_come_today_came_yesterday(runs: MaintenanceRuns, sql: Any) -> None:
    await runs.due(JOBS, 0)
    for hour in range(24):
        last = (
            f"(select max(at) from generate_series(date_trunc('day', now(), 'UTC') - interval '1 day' + interval"
            f" '{hour} hours', now(), interval '1 day') as at)"
        )
        await sql.execute(f"update maintenance_runs set succeeded_at = {last} - interval '1 second'")
        assert len(await runs.due(JOBS, hour)) == len(JOBS)
        await sql.execute(f"update maintenance_runs set succeeded_at = {last}")
        assert await runs.due(JOBS, hour) == []


async def test_two_processes_expire_collect_and_archive_once(
    settings: Settings, blobs: Blobs, line: Line, runs: MaintenanceRuns, sql: Any
) -> None:
    kept, silent = frame(uuid4().hex), frame(uuid4().hex)
    await line.take(kept, silent)
    await sql.execute(
        "with old as (update records set ingested_at = now() - interval '40 days' returning record_id)"
        " update outbox set created_at = now() - interval '40 days', published_at = now() where record_id in"
        " (select record_id from old)"
    )
    await sql.execute("insert into announced values (gen_random_uuid(), now() - interval '100 days')")
    erased = (
        "insert into erased_announcements (event_id, subject_id, erasure_id, noted_at)"
        " values ($1, $1, $1, now() - $2::interval)"
    )
    young = uuid4()
    for noted, days in ((young, 50), (uuid4(), 100)):
        await sql.execute(erased, noted, timedelta(days=days))
    orphan, staged = blob_key(sha256_hex(uuid4().bytes)), f"{staging.STAGING_PREFIX}plant/camera/{uuid4().hex}"
    await blobs.put(orphan, b"x")
    await overwrite(blobs, staged, b"x")
    await asyncio.sleep(1.1)  # times of objects may be whole seconds, and the grace is none
    await runs.due(JOBS, 0)
    await sql.execute(YESTERDAY)
    before = {job: succeeded(job) for job in JOBS}

    async with running(settings, runs, processes=2):
        await until_async(lambda: all(succeeded(job) > before[job] for job in JOBS), 60, "every job to succeed")
    assert {job: succeeded(job) - before[job] for job in JOBS} == dict.fromkeys(JOBS, 1)
    assert await runs.due(JOBS, 0) == []
    assert (await blobs.stat(orphan), await blobs.stat(staged)) == (None, None)
    assert await blobs.stat(blob_key(kept.sha256)) is not None
    assert await sql.fetchval("select (select count(*) from outbox) + (select count(*) from announced)") == 0
    assert [row[0] for row in await sql.fetch("select event_id from erased_announcements")] == [young]


async def test_records_past_a_rule_are_erased(
    settings: Settings, blobs: Blobs, line: Line, runs: MaintenanceRuns, sql: Any
) -> None:
    old, young = frame(uuid4().hex), frame(uuid4().hex)
    await line.take(old, young)
    record = record_id(Kind.FRAME, old.sha256)
    ago = "now() - interval '40 days' where record_id"
    await sql.execute(f"update records set ingested_at = {ago} = $1", record)
    await sql.execute(f"update sightings set seen_at = {ago} = $1", record)
    await sql.execute("insert into retention_rules (kind, site, days) values ('frame', '', 30)")
    await sql.execute("insert into erasures (erasure_id, actor, reason) values ($1, 'somebody', '')", record)
    with pytest.raises(HeadraceError, match="was interrupted"):
        await retain_by_rules(settings)
    await sql.execute("delete from erasures")
    await runs.due(JOBS, 0)
    await sql.execute(YESTERDAY)
    before = succeeded("retain")
    async with running(settings.model_copy(update={"maintenance_jobs": "retain"}), runs):
        await until_async(lambda: succeeded("retain") > before, 60, "the job to succeed")
    assert [row[0] for row in await sql.fetch("select record_id from records")] == [record_id(Kind.FRAME, young.sha256)]
    assert await blobs.stat(blob_key(old.sha256)) is None


async def test_the_outbox_is_pruned_up_to_a_record_without_announcement(
    settings: Settings, line: Line, runs: MaintenanceRuns, sql: Any
) -> None:
    early, silent = frame(uuid4().hex), frame(uuid4().hex)
    for event, days in ((early, 60), (silent, 50)):
        await line.take(event)
        await sql.execute(
            "with old as (update records set ingested_at = now() - $2 * interval '1 day' where record_id = $1"
            " returning record_id, ingested_at) update outbox as o set created_at = old.ingested_at, published_at ="
            " now() from old where o.record_id = old.record_id",
            record_id(Kind.FRAME, event.sha256),
            days,
        )
    await sql.execute("delete from outbox where record_id = $1", record_id(Kind.FRAME, silent.sha256))
    await runs.due(JOBS, 0)
    await sql.execute(YESTERDAY)
    only = settings.model_copy(update={"maintenance_jobs": "expire"})
    before = succeeded("expire")
    async with running(only, runs):
        await until_async(lambda: succeeded("expire") > before, 60, "the job to succeed")
    assert [job.name for job in await runs.due(JOBS, 0)] == JOBS[1:], "others were not to be done"
    # Both lie in one window, which is not pruned: the missing one stays visible.
    assert await sql.fetchval("select outbox_pruned_until < now() - interval '50 days' from collection")
