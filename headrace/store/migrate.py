"""Migrate a database to this version's schema. The steps are plain SQL in headrace/store/migrations/versions."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from headrace.store.errors import CatalogNewerError, CatalogRefusedError, CatalogUnavailableError, address
from headrace.store.locks import MIGRATE_LOCK
from headrace.store.postgres import NO_TLS, require_readable_files, untrusted

CONNECT_TIMEOUT_S = 10
VERSION_TABLE = "schema_version"
LOCK_WAIT_MS_MAX = 300_000  # another process may be migrating a large table


def migrate(dsn: str) -> str:
    """Migrate the catalog to the newest schema and return its revision; may be repeated and run concurrently.

    Raises:
        CatalogUnavailableError: the database cannot be reached, or another migration holds it for too long.
        CatalogNewerError: a newer version migrated it; nothing was changed.
        CatalogRefusedError: a step failed; the whole migration was rolled back.
    """
    with _connected(dsn) as connection:
        connection.execute(text(f"set lock_timeout = {LOCK_WAIT_MS_MAX}"))
        # Held by the transaction, so it goes with the connection whatever happens.
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": MIGRATE_LOCK})
        config = _config()
        _require_known(connection, config, dsn)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return newest()


def _require_known(connection: Connection, config: Config, dsn: str) -> None:
    current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise CatalogNewerError(current, newest(), where=address(dsn))


def newest() -> str:
    """Return the revision that this version of the code needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


@contextmanager
def _connected(dsn: str) -> Iterator[Connection]:
    """Yield a connection in one transaction, its errors translated into the catalog's."""
    try:
        require_readable_files(dsn)
        url = make_url(dsn).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        raise CatalogRefusedError("the address of PostgreSQL is invalid", where=address(dsn)) from None
    engine = create_engine(
        url,
        poolclass=NullPool,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S},
    )
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        cause = error.orig
        sqlstate = getattr(cause, "sqlstate", None) or ""
        if refusal := _tls_refusal(str(cause)):
            raise CatalogRefusedError(refusal, where=address(dsn)) from None
        if error.connection_invalidated or isinstance(error, OperationalError):
            reason = sqlstate or "no connection"
            raise CatalogUnavailableError(f"PostgreSQL does not answer: {reason}", where=address(dsn)) from None
        what = f"a migration failed: {cause}".split("\n", 1)[0]
        raise CatalogRefusedError(what, where=address(dsn), sqlstate=sqlstate) from None


def _tls_refusal(reason: str) -> str:
    """Return what is said of a failed TLS handshake, which libpq tells by its text alone; empty for other errors."""
    if "server does not support SSL" in reason:
        return NO_TLS
    wrong = re.search(r"certificate verify failed|server certificate for .* does not match host name \S+", reason)
    return untrusted(wrong[0]) if wrong else ""
