"""What the mirrored topics of sites brought, and the offsets of the sites' own topics that they did not bring.

A gap in a site's offsets proves nothing by itself: transaction markers and aborted messages have offsets, and no
consumer gets them. It is recorded as a gap until the mirror, which reads the site's cluster, has noted the first offset
that the site's topic still had later: at or below the gap, nothing of it was deleted, and the gap is forgotten; above
it, the offsets below are lost. An offset that comes again with another message belongs to a topic that was made anew.
"""

from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from headrace.runtime import metrics
from headrace.runtime.logs import Action, get_log
from headrace.schemas.catalog_rows import OffsetRun
from headrace.schemas.topics import PartitionKey, site_of_topic
from headrace.store.locks import LOST_LOCK
from headrace.store.postgres import borrowed, opened_pool, row_count, statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from headrace.store.postgres import Pool, Pooled

LISTED_MAX = 1000


class MirrorLossReason(StrEnum):
    """Why offsets of a site's topic were not mirrored."""

    GAP = "gap"  # not compared with the site's topic yet
    RETENTION = "retention"
    TRUNCATED = "truncated"
    MADE_ANEW = "made_anew"


@dataclass(frozen=True, slots=True)
class SitePartition:
    """A partition of a topic in a site's own cluster."""

    site: str
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class MirrorLoss:
    """Offsets of a site's own topic that were not mirrored, both ends included; None for a last one that is unknown."""

    site: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int | None
    reason: MirrorLossReason
    noticed_at_us: int = 0

    @property
    def count(self) -> int | None:
        """How many offsets, where that is known."""
        return None if self.last_offset is None else self.last_offset - self.first_offset + 1


@dataclass(frozen=True, slots=True)
class Followed:
    """What a batch's offsets say: the next one that is expected, the gaps, and what came again."""

    next_offset: int
    gaps: list[OffsetRun] = field(default_factory=list)
    again: list[OffsetRun] = field(default_factory=list)


def follow(next_offset: int | None, runs: Sequence[OffsetRun]) -> Followed:
    """Compare runs of offsets, of which there is at least one, with the offset that was expected, if any was."""
    followed = Followed(0)
    expected = runs[0][0] if next_offset is None else next_offset
    for first, last in runs:
        if first > expected:
            followed.gaps.append((expected, first - 1))
        elif first < expected:
            followed.again.append((first, min(last, expected - 1)))
        expected = max(expected, last + 1)
    return Followed(expected, followed.gaps, followed.again)


async def follow_origins(connection: "Pooled", origins: Mapping[PartitionKey, Sequence[OffsetRun]]) -> list[MirrorLoss]:
    """Move on what mirrored topics have brought, and record what they left out; call it late in a transaction.

    The sightings of the batch must be inserted. Returns what is recorded.
    """
    if not origins:
        return []
    sql = statements("mirror_losses")
    topics, partitions = zip(*origins, strict=True)
    rows = await connection.fetch(sql["where"], topics, partitions)
    before = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
    losses: list[MirrorLoss] = []
    next_offsets = []
    for key, runs in origins.items():
        followed = follow(before[key], runs)
        place = site_partition(key)
        anew = False
        for again in followed.again:
            anew = anew or bool(await connection.fetchval(sql["is_anew"], *key, *again))
        if anew:
            losses.append(_loss(place, before[key] or 0, None, MirrorLossReason.MADE_ANEW))
            next_offsets.append(runs[-1][1] + 1)
            continue
        next_offsets.append(followed.next_offset)
        losses += [_loss(place, first, last, MirrorLossReason.GAP) for first, last in followed.gaps]
    await connection.execute(sql["advance"], topics, partitions, next_offsets)
    if losses:
        await connection.execute(sql["lock"], LOST_LOCK)
    for loss in losses:
        await _note(connection, loss)
    return losses


def site_partition(key: PartitionKey) -> SitePartition:
    """Return the partition at the site of a mirrored topic's partition."""
    topic, partition = key
    site = site_of_topic(topic) or ""
    return SitePartition(site, topic.removeprefix(f"{site}."), partition)


def report_losses(losses: "Iterable[MirrorLoss]") -> None:
    """Count and log what was recorded."""
    for loss in losses:
        metrics.worker_unmirrored_offsets_total.labels(loss.site, loss.reason.value).inc(loss.count or 1)
        get_log().error(
            Action.LOST,
            site=loss.site,
            topic=loss.topic,
            partition=loss.partition,
            first_offset=loss.first_offset,
            last_offset=loss.last_offset,
            why=f"the mirror did not bring these offsets: {loss.reason}",
            hint="`headrace lost` lists all of them; docs/central.md says what they mean",
        )


class MirrorLosses:
    """Records and lists mirror losses. Every method may be repeated.

    Raises CatalogUnavailableError or CatalogRefusedError.
    """

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("mirror_losses")

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, *, statement_s_max: float) -> "AsyncIterator[Self]":
        """Connect, and close on exit."""
        async with opened_pool(
            dsn, connections_max=1, statement_s_max=statement_s_max, application="headrace mirror losses"
        ) as pool:
            yield cls(pool, dsn)

    async def record_mirror_loss(
        self, place: SitePartition, first: int, last: int | None, reason: MirrorLossReason
    ) -> None:
        """Record offsets of a site's topic as lost, merged with what is recorded; `last` is None if it is unknown."""
        loss = _loss(place, first, last, reason)
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            await connection.execute(self._sql["lock"], LOST_LOCK)
            is_new = await _note(connection, loss)
        report_losses([loss] if is_new else [])

    async def note_source_start(self, place: SitePartition, start: int, *, age_s: float) -> list[MirrorLoss]:
        """Judge the gaps by the first offset that the site's topic had `age_s` ago; returns what turns out to be lost.

        A gap that was noticed after that look is left for the next one.
        """
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            await connection.execute(self._sql["lock"], LOST_LOCK)
            rows = await connection.fetch(self._sql["take_gaps"], place.site, place.topic, place.partition, age_s)
            losses = [
                _loss(place, row["first_offset"], min(row["last_offset"], start - 1), MirrorLossReason.RETENTION)
                for row in rows
                if row["first_offset"] < start
            ]
            for loss in losses:
                await _note(connection, loss)
        report_losses(losses)
        return losses

    async def listed(self, limit: int = LISTED_MAX) -> list[MirrorLoss]:
        """Return what was not mirrored, newest first."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["listed"], limit)
        return [MirrorLoss(**{**row, "reason": MirrorLossReason(row["reason"])}) for row in rows]


def _loss(place: SitePartition, first: int, last: int | None, reason: MirrorLossReason) -> MirrorLoss:
    return MirrorLoss(place.site, place.topic, place.partition, first, last, reason)


async def _note(connection: "Pooled", loss: MirrorLoss) -> bool:
    """Record a loss, merged with those of the same reason that it touches; return whether anything of it is new.

    Call it under the lock.
    """
    sql = statements("mirror_losses")
    first, last, noticed_at = loss.first_offset, loss.last_offset, None
    place = loss.site, loss.topic, loss.partition
    is_new = True
    if last is not None:
        for row in await connection.fetch(sql["touching"], *place, first, last, loss.reason.value):
            is_new = is_new and not (row["first_offset"] <= loss.first_offset and last <= row["last_offset"])
            first, last = min(first, row["first_offset"]), max(last, row["last_offset"])
            noticed: datetime = row["noticed_at"]
            noticed_at = noticed if noticed_at is None else min(noticed_at, noticed)
    added = await connection.execute(sql["add"], *place, first, last, loss.reason.value, noticed_at)
    return is_new and row_count(added) > 0
