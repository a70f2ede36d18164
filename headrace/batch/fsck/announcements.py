"""Records against their announcements: the outbox always, the topics where it is asked for."""

import asyncio
from collections.abc import Iterable
from uuid import UUID

from headrace.batch.fsck.findings import Finding, FsckProblem, FsckReport
from headrace.batch.fsck.messages import Messages
from headrace.schemas.events import Kind
from headrace.store.catalog.fsck_queries import FsckQueries

LATE_S = 120  # an announcement that waits for longer than this shows that no relay works
NAMED_MAX = 10_000


async def check_outbox(inventory: FsckQueries, report: FsckReport) -> None:
    """Compare the records with the outbox."""
    for record, kind in await inventory.records_without_announcement():
        report.found.append(
            Finding(
                FsckProblem.RECORD_WITHOUT_ANNOUNCEMENT,
                str(record),
                f"a {kind} that the outbox lacks",
                record_id=record,
            )
        )
    for late in await inventory.late(LATE_S):
        detail = f"{late.number} announcements wait, the oldest for {late.oldest_s} s"
        report.found.append(Finding(FsckProblem.ANNOUNCEMENT_LATE, late.topic, detail))
    for one in await inventory.announcements_without_record():
        detail = "it is out" if one.published else "it waits in the outbox"
        report.found.append(
            Finding(
                FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD,
                str(one.record_id),
                detail,
                record_id=one.record_id,
                outbox_id=None if one.published else one.outbox_id,
            )
        )


async def check_topics(inventory: FsckQueries, messages: Messages, report: FsckReport) -> None:
    """Compare the records with what the topics hold. It keeps 16 bytes and some for each announcement in memory."""
    # Only what was marked before the reading began can be missed on the topics.
    before_us = await inventory.now_us()
    since_us = await asyncio.to_thread(messages.complete_since_us)
    known = {found.record_id for found in report.found if found.problem is FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD}
    out: set[int] = set()
    reading = messages.announced()
    while (some := await asyncio.to_thread(next, reading, None)) is not None:
        report.count("announcements", len(some))
        ids = list({one.record_id for one in some})
        out.update(record.int for record in ids)
        topics = {one.record_id: one.topic for one in some}
        for record in await inventory.unknown_records(ids) if ids else []:
            if record not in known and len(known) < NAMED_MAX:
                known.add(record)
                report.found.append(
                    Finding(
                        FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD,
                        str(record),
                        f"it is on {topics[record]}",
                        record_id=record,
                    )
                )
    # A segment that was deleted meanwhile may have gone before it was read.
    since_us = max(since_us, await asyncio.to_thread(messages.complete_since_us))
    async for record, kind in inventory.published_records(before_us=before_us, since_us=since_us):
        if record.int not in out:
            detail = f"a {kind} marked as announced that its topic lacks"
            report.found.append(Finding(FsckProblem.RECORD_WITHOUT_ANNOUNCEMENT, str(record), detail, record_id=record))


async def out_of(messages: Messages, wanted: Iterable[UUID]) -> set[UUID]:
    """Return those of the records that the topics announce."""
    missing = set(wanted)
    found: set[UUID] = set()
    reading = messages.announced()
    while (some := await asyncio.to_thread(next, reading, None)) is not None:
        found |= {one.record_id for one in some if one.record_id in missing}
    return found


def kind_in(found: Finding) -> Kind:
    """Return the kind of record that a finding of a missing announcement speaks of."""
    return Kind(found.detail.split()[1])
