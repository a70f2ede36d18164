"""PostgreSQL roles with what each process needs, and nothing else.

They cannot log in: headrace/store/logins.py makes a login for each, which is a member of the role. The owner of the
tables, as which `headrace init` connects, migrates and may do everything; no process needs it.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg

from headrace.store.locks import ROLES_LOCK
from headrace.store.postgres import connected

if TYPE_CHECKING:
    from headrace.store.postgres import Pooled

STATEMENT_S_MAX = 60.0
_ALL = "select, insert, update, delete"
_READ = "select"

PRIVILEGES: Mapping[str, Mapping[str, str]] = {
    "headrace_worker": {
        "blobs": "select, insert",
        "pack_copies": "select, insert",
        "records": "select, insert, update (ingested_at, clip_sha256)",
        "record_counts": _READ,
        "site_records": "select, insert, update (ingested_at)",
        "sightings": "select, insert",
        "sources": "select, insert, update",
        "dead_letters": "select, insert, update (redriven_at, record_id)",
        "redrives": "select, update",
        "outbox": "select, insert",
        "announced": _READ,
        "tombstones": _READ,
        "collection": "select, update (generation)",
        "collecting": "select, delete",
        "ingest_progress": _ALL,
        "lost_ranges": _ALL,
        "mirror_progress": _ALL,
        "mirror_losses": _ALL,
        "transfers": _ALL,
        "source_losses": "select, insert, update",
        "recovery_targets": _READ,
        "installation": _READ,
    },
    "headrace_relay": {
        "outbox": "select, update (published_at, set_aside)",
        "records": _READ,
        "site_records": _READ,
        "blobs": _READ,
        "dead_letters": _READ,
        "announced": _READ,
        "erased_announcements": _READ,
        "relay_checkpoints": "select, insert, update",
        "installation": _READ,
    },
    "headrace_gateway": {
        "source_losses": _READ,
        "records": _READ,
        "record_counts": _READ,
        "site_records": _READ,
        "sightings": _READ,
        "blobs": _READ,
        # A redrive locks the letter that it claims, which PostgreSQL allows to those who may update a column.
        "dead_letters": "select, update (redriven_at)",
        "redrives": "select, insert, update",
        "sources": _READ,
        "outbox": _READ,
        "collection": _READ,
        "ingest_progress": _READ,
        "tombstones": _READ,
        "pack_copies": _READ,
        "mirror_progress": _READ,
        "transfers": "select, update (requested_at, retry_at)",
        "installation": _READ,
        "api_keys": _READ,
        "audit": "select, insert, delete",
        "idempotency": _ALL,
        "ingest_requests": _ALL,
        "request_items": _ALL,
        "request_events": _ALL,
        "cameras": _ALL,
        "uploads": _ALL,
        "upload_parts": _ALL,
    },
    "headrace_capture": {
        "sightings": _READ,
        "dead_letters": _READ,
        "installation": _READ,
        "ingest_requests": "select, insert, update",
        "request_items": "select, insert, update",
        "request_events": "select, insert",
    },
}
OPERATOR = "headrace_operator"
"""For maintenance and the commands that list, check, repair, archive, erase, export and label: all rows, no table."""
_SEES_SESSIONS = "pg_read_all_stats"  # an export waits for the transactions of other users

_STATE = """
select c.relname from pg_class as c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' order by 1
"""


async def grant_roles(dsn: str) -> list[str]:
    """Create the roles that do not exist, and give each exactly its privileges; may be repeated.

    Returns the names of the roles.

    Raises:
        CatalogUnavailableError. CatalogRefusedError: the user may not create roles, may not grant pg_read_all_stats, or
            does not own the tables.
    """
    async with (
        connected(dsn, statement_s_max=STATEMENT_S_MAX, application="headrace init") as connection,
        connection.transaction(),
    ):
        await connection.execute("select pg_advisory_xact_lock($1)", ROLES_LOCK)
        tables = [row[0] for row in await connection.fetch(_STATE)]
        for role in (*PRIVILEGES, OPERATOR):
            await _create(connection, role)
            await connection.execute(f"revoke all on all tables in schema public from {role}")
            await connection.execute(f"grant usage on schema public to {role}")
        for role, privileges in PRIVILEGES.items():
            for table, what in privileges.items():
                await connection.execute(f"grant {what} on {table} to {role}")
        await connection.execute(f"grant {_ALL} on {', '.join(tables)} to {OPERATOR}")
        if not await connection.fetchval("select pg_has_role($1, $2, 'usage')", OPERATOR, _SEES_SESSIONS):
            await _execute_once(connection, f"grant {_SEES_SESSIONS} to {OPERATOR}")
    return [*PRIVILEGES, OPERATOR]


async def _create(connection: "Pooled", role: str) -> None:
    if not await connection.fetchval("select exists (select from pg_roles where rolname = $1)", role):
        await _execute_once(connection, f"create role {role} nologin")


async def _execute_once(connection: "Pooled", statement: str) -> None:
    """Execute a statement, unless somebody has done the same in another database of the server meanwhile.

    Roles belong to all databases of a server, and an advisory lock to one.
    """
    with suppress(asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        async with connection.transaction():
            await connection.execute(statement)
