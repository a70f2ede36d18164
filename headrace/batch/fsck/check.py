"""Checks store, catalog and topics for consistency, and repairs them on request."""

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from headrace.batch.archive.job import open_archive
from headrace.batch.fsck.announcements import check_outbox, check_topics
from headrace.batch.fsck.findings import Finding, FsckProblem, FsckReport
from headrace.batch.fsck.messages import TopicMessages
from headrace.batch.fsck.objects import AgeLimits, ObjectCheck, ObjectScope, Sampler
from headrace.batch.fsck.repair import BodyRecovery, Repair, RepairDeps
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.dead_letters import DeadLetters
from headrace.store.catalog.expiry import Expiry
from headrace.store.catalog.fsck_queries import FsckQueries
from headrace.store.catalog.orphan_gc import OrphanGc
from headrace.store.installation import require_installation

PROMOTING_GRACE = timedelta(days=1)  # a promotion is a copy within the store


@dataclass(frozen=True, slots=True)
class FsckOptions:
    """What to check; `sample` is the number of objects to read, None for all."""

    repair: bool = False
    force: bool = False
    topics: bool = False
    sample: int | None = None
    seed: int | None = None


async def open_and_check(
    settings: Settings, blobs: Blobs, options: FsckOptions, progress: Callable[[str], None] = lambda _line: None
) -> FsckReport:
    """Connect and check, and repair if the options say so.

    Raises:
        HeadraceError: a service is unreachable, or another repair is running; the check is incomplete. Nothing is
            repaired where Kafka, catalog and store do not belong together, or the catalog may be an older copy.
    """
    if options.repair:
        await require_installation(settings, blobs)
    dsn = settings.postgres_dsn.get_secret_value()
    async with AsyncExitStack() as stack:
        orphan_gc = await stack.enter_async_context(OrphanGc.open(dsn)) if options.repair else None
        queries = await stack.enter_async_context(FsckQueries.open(dsn))
        letters = await stack.enter_async_context(DeadLetters.open(dsn))
        report = await check(settings, blobs, queries, options, progress)
        report.expired["dead_letters"] = await letters.expired(settings.dead_letter_retention_days)
        report.expired["announcements"] = await queries.old_announcements(settings.outbox_retention_days)
        if orphan_gc is not None:
            messages = TopicMessages(settings)
            deps = RepairDeps(blobs, queries, messages, orphan_gc, BodyRecovery(queries, messages, blobs))
            progress(f"repairing {len(report.findings)} findings")
            await Repair(deps, report, force=options.force).run()
            await _expire(settings, report, letters)
    return report


async def check(
    settings: Settings, blobs: Blobs, queries: FsckQueries, options: FsckOptions, progress: Callable[[str], None]
) -> FsckReport:
    """Compare store, catalog and topics; may run while the service ingests."""
    report, ages = FsckReport(), age_limits(settings, datetime.now(UTC))
    sampler = Sampler(options.sample, random.Random(options.seed))  # noqa: S311 - a sample, not a secret
    progress("comparing the store with the catalog")
    await ObjectCheck(ObjectScope(blobs, queries, ages), report, sampler).run()
    if settings.archive_url or await queries.has_archived():
        progress("comparing the archive with the catalog")
        # Only names and sizes: the archive job has verified the objects, and reading them may cost money.
        no_reads = Sampler(0, random.Random(0))  # noqa: S311 - nothing is drawn
        scope = ObjectScope(open_archive(settings), queries.in_archive(), ages, in_archive=True)
        await ObjectCheck(scope, report, no_reads).run()
    for record in await queries.records_without_blob():
        detail = f"a {record.kind} of {record.size_bytes} bytes, {record.digest.hex()}"
        report.findings.append(
            Finding(FsckProblem.RECORD_WITHOUT_BLOB, str(record.record_id), detail, record_id=record.record_id)
        )
    progress("comparing the records with their announcements")
    await check_outbox(queries, report)
    if options.topics:
        await check_topics(queries, TopicMessages(settings), report)
    return report


def age_limits(settings: Settings, now: datetime) -> AgeLimits:
    """Return the times before which objects count as abandoned."""
    return AgeLimits(
        orphans=now - timedelta(hours=settings.collect_grace_hours),
        staged=now - timedelta(days=settings.staging_retention_days),
        promoting=now - PROMOTING_GRACE,
        quarantined=now - timedelta(days=settings.quarantine_days),
    )


async def _expire(settings: Settings, report: FsckReport, letters: DeadLetters) -> None:
    """Delete dead letters and outbox rows that are past their retention."""
    report.removed["dead_letters"] = await letters.expire(settings.dead_letter_retention_days)
    async with Expiry.open(settings.postgres_dsn.get_secret_value()) as expiry:
        report.removed["announcements"] = (await expiry.prune_outbox(settings.outbox_retention_days)).removed
