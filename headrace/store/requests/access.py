"""Who may come in: the gateway's keys, its audit trail, and what it answered under an Idempotency-Key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from headrace.store.postgres import borrowed, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it is checked. The secrets are SHA-256; nobody has them in the clear."""

    key_id: str
    name: str
    role: str
    sources: tuple[str, ...]
    secret_sha256: bytes
    previous_sha256: bytes | None
    previous_is_good: bool | None
    revoked: bool
    expired: bool


@dataclass(frozen=True, slots=True)
class KeyListed:
    """A key as it is listed."""

    key_id: str
    name: str
    role: str
    sources: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Something that was refused, or was done to a key; `at_s` is Unix time."""

    at_s: float
    actor: str | None
    address: str | None
    action: str
    code: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered; `status` is None while the request that came first is still at work."""

    fingerprint: bytes | None
    status: int | None
    answer: str | None


class Access:
    """The tables of the gateway's door. Raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("access")

    async def find_key(self, key_id: str) -> KeyRow | None:
        """Return the key of this id, whatever became of it."""
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql["find_key"], key_id)
        return None if row is None else KeyRow(**{**row, "sources": tuple(row["sources"])})

    async def list_keys(self) -> list[KeyListed]:
        """Return every key, oldest first."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["list_keys"])
        return [KeyListed(**{**row, "sources": tuple(row["sources"])}) for row in rows]

    async def add_key(
        self, key_id: str, name: str, role: str, sources: Sequence[str], secret_sha256: bytes, days: float | None
    ) -> None:
        """Keep a key, for so many days where they are given; one of that id is replaced."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["add_key"], key_id, name, role, [*sources], secret_sha256, days)

    async def rotate_key(self, key_id: str, secret_sha256: bytes, overlap_hours: float) -> bool:
        """Give a key another secret; the one before it stays good for so many hours. False: there is no such key."""
        async with borrowed(self._pool, self._dsn) as connection:
            found = await connection.fetchval(self._sql["rotate_key"], key_id, secret_sha256, overlap_hours)
        return found is not None

    async def revoke_key(self, key_id: str) -> bool:
        """End a key at once; may be repeated. False: there is no such key."""
        async with borrowed(self._pool, self._dsn) as connection:
            return await connection.fetchval(self._sql["revoke_key"], key_id) is not None

    async def audit(self, rows: Sequence[AuditRow]) -> None:
        """Add to the audit trail."""
        columns = [
            [getattr(row, name) for row in rows]
            for name in ("at_s", "actor", "address", "action", "code", "request_id")
        ]
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["audit"], *columns)

    async def claim_answer(self, actor: str, key: str) -> datetime | KeptAnswer:
        """Take an Idempotency-Key for a request; returns since when, or what came of the one that has it already."""
        async with borrowed(self._pool, self._dsn) as connection:
            since: datetime | None = await connection.fetchval(self._sql["claim_answer"], actor, key)
            if since is not None:
                return since
            row = await connection.fetchrow(self._sql["answer_of"], actor, key)
        return KeptAnswer(None, None, None) if row is None else KeptAnswer(*row)

    async def keep_answer(self, actor: str, key: str, since: datetime, kept: KeptAnswer) -> None:
        """Keep what was answered to the request that has had the key since then, if it still has it."""
        said = (kept.fingerprint, kept.status, kept.answer)
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["keep_answer"], actor, key, *said, since)

    async def drop_answer(self, actor: str, key: str, since: datetime) -> None:
        """Give a key back whose request came to nothing, if it still has it."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["drop_answer"], actor, key, since)

    async def expire_answers(self, hours: float) -> None:
        """Forget answers older than that."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["expire_answers"], hours)
