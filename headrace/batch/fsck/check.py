"""One check of everything, and with `repair` its mending."""

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from headrace.batch.archive.job import open_archive
from headrace.batch.fsck.announcements import check_outbox, check_topics
from headrace.batch.fsck.findings import Finding, FsckProblem, FsckReport
from headrace.batch.fsck.messages import Messages
from headrace.batch.fsck.objects import Ages, ObjectCheck, Sampler
from headrace.batch.fsck.repair import Repair, RepairDeps
from headrace.batch.fsck.restore import Restore
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.dead_letters import DeadLetters
from headrace.store.catalog.fsck_queries import FsckQueries
from headrace.store.catalog.orphan_gc import OrphanGc

PROMOTING_GRACE = timedelta(days=1)  # a promotion takes as long as a copy within the store


@dataclass(frozen=True, slots=True)
class FsckOptions:
    """What to check; `sample` is how many objects are read, None for all of them."""

    repair: bool = False
    force: bool = False
    topics: bool = False
    sample: int | None = None
    seed: int | None = None


async def open_and_check(
    settings: Settings, blobs: Blobs, options: FsckOptions, say: Callable[[str], None] = lambda _line: None
) -> FsckReport:
    """Connect, check, and mend where that is asked for.

    Raises:
        HeadraceError: a service is away, or another repair is at work. What could not be read was not checked.
    """
    dsn = settings.postgres_dsn.get_secret_value()
    async with AsyncExitStack() as stack:
        collection = await stack.enter_async_context(OrphanGc.open(dsn)) if options.repair else None
        inventory = await stack.enter_async_context(FsckQueries.open(dsn))
        letters = await stack.enter_async_context(DeadLetters.open(dsn))
        report = await check(settings, blobs, inventory, options, say)
        report.expired["dead_letters"] = await letters.expired(settings.dead_letter_retention_days)
        report.expired["announcements"] = await inventory.old_announcements(settings.outbox_retention_days)
        if collection is not None:
            messages = Messages(settings)
            tools = RepairDeps(blobs, inventory, messages, collection, Restore(inventory, messages, blobs))
            say(f"mending {len(report.found)} findings")
            await Repair(tools, report, force=options.force).run()
            await _expire(settings, report, inventory, letters)
    return report


async def check(
    settings: Settings, blobs: Blobs, inventory: FsckQueries, options: FsckOptions, say: Callable[[str], None]
) -> FsckReport:
    """Compare store, catalog and topics; may be done while everything runs."""
    report, now = FsckReport(), datetime.now(UTC)
    ages = Ages(
        orphans=now - timedelta(hours=settings.collect_grace_hours),
        staged=now - timedelta(days=settings.staging_retention_days),
        promoting=now - PROMOTING_GRACE,
    )
    sampler = Sampler(options.sample, random.Random(options.seed))  # noqa: S311 - a sample, not a secret
    say("comparing the store with the catalog")
    await ObjectCheck(blobs, inventory, report, ages=ages, sampler=sampler).run()
    if settings.archive_url or await inventory.has_archived():
        say("comparing the archive with the catalog")
        # Names and sizes: what the archive holds was read back when it was written, and reading it may cost.
        unread = Sampler(0, random.Random(0))  # noqa: S311 - nothing is drawn
        archive, archived = open_archive(settings), inventory.in_archive()
        await ObjectCheck(archive, archived, report, ages=ages, sampler=unread, in_archive=True).run()
    for record in await inventory.records_without_blob():
        detail = f"a {record.kind} of {record.size_bytes} bytes, {record.digest.hex()}"
        report.found.append(
            Finding(FsckProblem.RECORD_WITHOUT_BLOB, str(record.record_id), detail, record_id=record.record_id)
        )
    say("comparing the records with their announcements")
    await check_outbox(inventory, report)
    if options.topics:
        await check_topics(inventory, Messages(settings), report)
    return report


async def _expire(settings: Settings, report: FsckReport, inventory: FsckQueries, letters: DeadLetters) -> None:
    """End what is older than its retention."""
    report.removed["dead_letters"] = await letters.expire(settings.dead_letter_retention_days)
    # What is to be forgotten must not be what would have shown that an announcement is missing.
    if not any(found.problem is FsckProblem.RECORD_WITHOUT_ANNOUNCEMENT for found, _ in report.unhealed):
        report.removed["announcements"] = await inventory.forget_announcements(settings.outbox_retention_days)
