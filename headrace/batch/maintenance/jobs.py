"""The jobs that keep an installation from growing for ever. Each may be repeated, and stopped at any time.

Each checks that the services belong to one installation before it deletes anything; those of commands do it there.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from random import Random
from types import MappingProxyType
from typing import TypeAlias

from headrace.batch.archive.job import archive
from headrace.batch.erase.run import retain
from headrace.batch.fsck.check import age_limits
from headrace.batch.fsck.findings import FsckReport
from headrace.batch.fsck.messages import TopicMessages
from headrace.batch.fsck.objects import ObjectCheck, ObjectScope, Sampler
from headrace.batch.fsck.repair import BodyRecovery, Repair, RepairDeps
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import MaintenanceJob, Settings
from headrace.schemas.topics import DAY_S, DEAD_LETTERS
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.dead_letters import DeadLetters
from headrace.store.catalog.erasures import Erasures
from headrace.store.catalog.expiry import Expiry
from headrace.store.catalog.fsck_queries import FsckQueries
from headrace.store.catalog.orphan_gc import OrphanGc
from headrace.store.catalog.retention import Retention
from headrace.store.installation import require_installation
from headrace.store.postgres import STATEMENT_S_MAX, connected

REPLAY_DAYS = 90  # a name can be used again then

Job: TypeAlias = Callable[[Settings], Awaitable[Mapping[str, int]]]
"""Does a job and returns what it did, in numbers; raises HeadraceError if a service is unavailable or foreign."""


async def expire(settings: Settings) -> dict[str, int]:
    """Delete dead letters, and announcements in the outbox, that are past their retention."""
    await require_installation(settings, Blobs.from_settings(settings))
    dsn = settings.postgres_dsn.get_secret_value()
    async with DeadLetters.open(dsn) as letters:
        expired = await letters.expire(settings.dead_letter_retention_days)
    async with Expiry.open(dsn) as expiry:
        pruned = await expiry.prune_outbox(settings.outbox_retention_days)
        # A dead letter of the lost time may be redriven for as long as it is kept.
        learned_days = max(settings.outbox_retention_days, settings.dead_letter_retention_days)
        learned = await expiry.forget_learned(learned_days)
        # They are known for as long as they may be on a topic; Kafka deletes whole segments, some time later.
        on_topics_days = 2 * DEAD_LETTERS.retention_s // DAY_S
        await expiry.forget_erased(max(settings.outbox_retention_days, on_topics_days))
        await expiry.forget_copies()
        await expiry.forget_replays(REPLAY_DAYS)
    if pruned.unannounced is not None:
        get_log().error(
            Action.PASSED_OVER,
            record_id=str(pruned.unannounced),
            why="the record has no announcement, so the outbox is not pruned beyond it",
            hint="run `headrace fsck --repair`",
        )
    return {"dead_letters": expired, "announcements": pruned.removed, "learned": learned}


async def retain_by_rules(settings: Settings) -> dict[str, int]:
    """Erase records that are past a retention rule; without rules, nothing.

    The reports are not signed: only gateways have the key. So an erasure that somebody asked for is not gone on with.
    """
    dsn = settings.postgres_dsn.get_secret_value()
    async with connected(dsn, statement_s_max=STATEMENT_S_MAX, application="headrace retention") as connection:
        if not await Retention(connection, dsn).rules():
            return {}
        unfinished = [erasure for erasure in await Erasures(connection, dsn).unfinished() if erasure.keeps_out]
    if unfinished:
        hint = "run `headrace erase --resume`"
        raise HeadraceError("erasure_unfinished", f"erasure {unfinished[0].erasure_id} was interrupted", hint=hint)
    return {"erasures": len(await retain(settings, sign=lambda _erasure_id, _report: None))}


async def collect(settings: Settings) -> dict[str, int]:
    """Delete objects to which no row refers, and staged bodies that no message has claimed, once they are old enough.

    It reads names and ages of objects, not their bytes: `headrace fsck` compares those.
    """
    dsn, blobs, report = settings.postgres_dsn.get_secret_value(), Blobs.from_settings(settings), FsckReport()
    await require_installation(settings, blobs)
    async with FsckQueries.open(dsn) as queries:
        scope = ObjectScope(blobs, queries, age_limits(settings, datetime.now(UTC)))
        no_reads = Sampler(0, Random(0))  # noqa: S311 - nothing is drawn
        await ObjectCheck(scope, report, no_reads).find_abandoned()
        if report.findings:
            messages = TopicMessages(settings)
            async with OrphanGc.open(dsn) as orphan_gc:
                deps = RepairDeps(blobs, queries, messages, orphan_gc, BodyRecovery(queries, messages, blobs))
                await Repair(deps, report, force=False).run()
    for why in sorted({why for _, why in report.unhealed}):
        number = sum(reason == why for _, reason in report.unhealed)
        get_log().error(Action.PASSED_OVER, objects=number, why=why, hint="run `headrace fsck`")
    return {"objects": report.checked.get("objects", 0), "found": len(report.findings), "removed": len(report.healed)}


async def move_to_archive(settings: Settings) -> dict[str, int]:
    """Move old LDOs and clips to the archive, if there is one."""
    if not settings.archive_url:
        return {}
    report = await archive(settings)
    if report.failed:
        code = min(report.failed.items())
        get_log().error(Action.PASSED_OVER, bodies=len(report.failed), first=code, hint="run `headrace archive`")
    return {"bodies": report.bodies, "bytes": report.body_bytes, "failed": len(report.failed)}


JOBS: Mapping[MaintenanceJob, Job] = MappingProxyType(
    {
        MaintenanceJob.EXPIRE: expire,
        MaintenanceJob.RETAIN: retain_by_rules,
        MaintenanceJob.COLLECT: collect,
        MaintenanceJob.ARCHIVE: move_to_archive,
    }
)
