"""Retention rules and legal holds: what an erasure of old records takes, and what no erasure takes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from headrace.schemas.events import Kind
from headrace.store.locks import ENTER_LOCK
from headrace.store.postgres import catalog_errors, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pooled

HOLDS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """After how many days records of a kind are erased: those of a site, or if it is empty of every other site."""

    kind: Kind
    site: str
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A legal hold of a record, a site, or a source of a site. Times are microseconds since 1970."""

    hold_id: UUID
    record_id: UUID | None
    site: str
    source_id: str
    reason: str
    actor: str
    placed_at_us: int = 0
    released_at_us: int | None = None
    released_by: str | None = None


class Retention:
    """The catalog's rules and holds. Every method may be repeated.

    Raises CatalogUnavailableError or CatalogRefusedError.
    """

    def __init__(self, connection: "Pooled", dsn: str) -> None:
        """Use an open connection."""
        self._connection = connection
        self._dsn = dsn
        self._sql = statements("retention")

    async def rules(self) -> list[RetentionRule]:
        """Return the rules by kind, those of a site first."""
        return [RetentionRule(Kind(row[0]), row[1], row[2]) for row in await self._rows("rules")]

    async def set_rule(self, rule: RetentionRule) -> None:
        """Add a rule, or change its days."""
        await self._rows("set_rule", rule.kind, rule.site, rule.days)

    async def remove_rule(self, kind: Kind, site: str) -> bool:
        """Remove a rule; return whether there was one."""
        return bool(await self._rows("remove_rule", kind, site))

    async def place(self, hold: Hold) -> None:
        """Place a hold; it covers what is not erased yet, also of an erasure that is under way."""
        with catalog_errors(self._dsn):
            async with self._connection.transaction():
                # An erasure deletes its rows under this lock: they are gone before, or the hold is seen.
                await self._connection.execute(self._sql["lock_shared"], ENTER_LOCK)
                values = hold.hold_id, hold.record_id, hold.site, hold.source_id, hold.reason, hold.actor
                await self._connection.execute(self._sql["place"], *values)

    async def release(self, hold_id: UUID, actor: str) -> bool:
        """Release a hold; return whether it was in force."""
        return bool(await self._rows("release", hold_id, actor))

    async def holds(self, *, released: bool) -> list[Hold]:
        """Return the holds in force, and if asked the released ones too, newest first."""
        return [Hold(**dict(row)) for row in await self._rows("holds", released, HOLDS_MAX)]

    async def _rows(self, name: str, *values: Any) -> list[Any]:
        with catalog_errors(self._dsn):
            return list(await self._connection.fetch(self._sql[name], *values))
