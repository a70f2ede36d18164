"""Compares records with their announcements: always in the outbox, and in the topics on request."""

import asyncio
from collections.abc import Iterable
from uuid import UUID

from headrace.batch.fsck.findings import Finding, FsckProblem, FsckReport
from headrace.batch.fsck.messages import TopicMessages
from headrace.store.catalog.fsck_queries import FsckQueries

LATE_S = 120  # no relay is running if an announcement waits for longer
NAMED_MAX = 10_000


async def check_outbox(queries: FsckQueries, report: FsckReport) -> None:
    """Compare the records with the outbox."""
    for record, kind in await queries.records_without_announcement():
        report.findings.append(
            Finding(
                FsckProblem.RECORD_WITHOUT_ANNOUNCEMENT,
                str(record),
                f"a {kind} that the outbox lacks",
                record_id=record,
                kind=kind,
            )
        )
    for late in await queries.late(LATE_S):
        detail = f"{late.number} announcements wait, the oldest for {late.oldest_s} s"
        report.findings.append(Finding(FsckProblem.ANNOUNCEMENT_LATE, late.topic, detail))
    for announcement in await queries.announcements_without_record():
        report.findings.append(
            Finding(
                FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD,
                str(announcement.record_id),
                "it is published" if announcement.published else "it waits in the outbox",
                record_id=announcement.record_id,
                outbox_id=None if announcement.published else announcement.outbox_id,
            )
        )


async def check_topics(queries: FsckQueries, messages: TopicMessages, report: FsckReport) -> None:
    """Compare the records with the ingested topics; uses some 100 bytes of memory for each announcement."""
    # The topics must hold every announcement that was marked as published before the reading began.
    before_us = await queries.now_us()
    since_us = await asyncio.to_thread(messages.complete_since_us)
    reported = {
        finding.record_id for finding in report.findings if finding.problem is FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD
    }
    announced: set[int] = set()
    batches = messages.announcements()
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        report.count("announcements", len(batch))
        topics = {announcement.record_id: announcement.topic for announcement in batch}
        announced.update(record.int for record in topics)
        for record in await queries.unknown_records(list(topics)) if topics else []:
            if record not in reported and len(reported) < NAMED_MAX:
                reported.add(record)
                detail = f"it is on {topics[record]}"
                report.findings.append(
                    Finding(FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD, str(record), detail, record_id=record)
                )
    # A segment that retention has deleted in the meantime may not have been read.
    since_us = max(since_us, await asyncio.to_thread(messages.complete_since_us))
    async for record, kind in queries.published_records(before_us=before_us, since_us=since_us):
        if record.int not in announced:
            detail = f"a {kind} marked as published that its topic lacks"
            problem = FsckProblem.RECORD_WITHOUT_ANNOUNCEMENT
            report.findings.append(Finding(problem, str(record), detail, record_id=record, kind=kind))


async def announced_among(messages: TopicMessages, records: Iterable[UUID]) -> set[UUID]:
    """Return which of the records the topics announce."""
    wanted = set(records)
    announced: set[UUID] = set()
    batches = messages.announcements()
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        announced |= {announcement.record_id for announcement in batch if announcement.record_id in wanted}
    return announced
