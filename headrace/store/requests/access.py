"""The gateway's API keys, its audit log, and the responses kept under an Idempotency-Key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from headrace.store.postgres import borrowed, delete_in_steps, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool

CLAIM_S = 60.0
"""How long an Idempotency-Key stays claimed after the last renewal by the gateway that processes the request."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key for authentication. The secrets are SHA-256; the service has no plain ones."""

    key_id: str
    name: str
    role: str
    sources: tuple[str, ...]
    secret_sha256: bytes
    previous_sha256: bytes | None
    previous_is_good: bool | None
    revoked: bool
    expired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDefinition:
    """A new key; it expires after `days`, if given."""

    key_id: str
    name: str
    role: str
    sources: tuple[str, ...]
    secret_sha256: bytes
    days: float | None


@dataclass(frozen=True, slots=True)
class KeyListed:
    """A key in a list."""

    key_id: str
    name: str
    role: str
    sources: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A refused request, one that changed something, or a change of a key; `count` were alike. `at_s` is Unix time."""

    at_s: float
    actor: str | None
    address: str | None
    action: str
    code: str | None
    request_id: str | None
    count: int = 1


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A kept response; `status` is None while the first request is in progress."""

    fingerprint: bytes | None
    status: int | None
    answer: str | None
    location: str | None


class Access:
    """The tables of keys, audit log and kept responses. Raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("access")

    async def find_key(self, key_id: str) -> KeyRow | None:
        """Return the key with this id, also a revoked or expired one."""
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql["find_key"], key_id)
        return None if row is None else KeyRow(**{**row, "sources": tuple(row["sources"])})

    async def list_keys(self) -> list[KeyListed]:
        """Return every key, oldest first."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["list_keys"])
        return [KeyListed(**{**row, "sources": tuple(row["sources"])}) for row in rows]

    async def add_key(self, key: KeyDefinition, actor: str) -> bool:
        """Insert a key; return False if a key has the id, which stays as it is."""
        values = (key.key_id, key.name, key.role, [*key.sources], key.secret_sha256, key.days)
        return await self._change_key("add_key", *values, actor)

    async def rotate_key(self, key_id: str, secret_sha256: bytes, overlap_hours: float, actor: str) -> bool:
        """Replace a key's secret; the old one stays valid for `overlap_hours`. Return False if no key has the id."""
        return await self._change_key("rotate_key", key_id, secret_sha256, overlap_hours, actor)

    async def revoke_key(self, key_id: str, actor: str) -> bool:
        """Revoke a key at once; may be repeated. Return False if no key has the id."""
        return await self._change_key("revoke_key", key_id, actor)

    async def _change_key(self, statement: str, *values: object) -> bool:
        async with borrowed(self._pool, self._dsn) as connection:
            return await connection.fetchval(self._sql[statement], *values) is not None

    async def audit(self, rows: Sequence[AuditRow]) -> None:
        """Append to the audit log."""
        columns = [
            [getattr(row, name) for row in rows]
            for name in ("at_s", "actor", "address", "action", "code", "request_id", "count")
        ]
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["audit"], *columns)

    async def list_audit(self, hours: float, limit: int, *, actor: str | None, address: str | None) -> list[AuditRow]:
        """Return the rows of the last `hours`, newest first; of one actor or address, if given."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["list_audit"], hours, actor, address, limit)
        return [AuditRow(*row) for row in rows]

    async def expire_audit(self, days: float) -> None:
        """Delete rows older than `days`."""
        await delete_in_steps(self._pool, self._dsn, self._sql["expire_audit"], days)

    async def claim_answer(self, actor: str, key: str) -> datetime | KeptAnswer:
        """Claim an Idempotency-Key; return the time of the claim, or the response of the request that holds it.

        A claim without a response that was not renewed for CLAIM_S is taken over: its gateway has ended.
        """
        async with borrowed(self._pool, self._dsn) as connection:
            since: datetime | None = await connection.fetchval(self._sql["claim_answer"], actor, key, CLAIM_S)
            if since is not None:
                return since
            row = await connection.fetchrow(self._sql["answer_of"], actor, key)
        return KeptAnswer(None, None, None, None) if row is None else KeptAnswer(*row)

    async def renew_claim(self, actor: str, key: str, since: datetime) -> None:
        """Hold the key that was claimed at `since` for another CLAIM_S."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["renew_claim"], actor, key, since)

    async def keep_answer(self, actor: str, key: str, since: datetime, kept: KeptAnswer) -> None:
        """Keep the response of the request that claimed the key at `since`, if it still holds it."""
        response = (kept.fingerprint, kept.status, kept.answer, kept.location)
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["keep_answer"], actor, key, *response, since)

    async def drop_answer(self, actor: str, key: str, since: datetime) -> None:
        """Release the key of a failed request, if it still holds it."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["drop_answer"], actor, key, since)

    async def expire_answers(self, hours: float) -> None:
        """Delete kept responses older than `hours`."""
        await delete_in_steps(self._pool, self._dsn, self._sql["expire_answers"], hours)
