"""Connections to PostgreSQL with limited waits, its errors translated into ours, and the SQL files.

SQL lives in `sql/*.sql`, many statements to a file, each below a line `-- name --`.
"""

import asyncio
import logging
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from headrace.store.errors import CatalogOlderError, CatalogRefusedError, CatalogUnavailableError, address

if TYPE_CHECKING:
    # The stubs are generic over the row's type; the classes themselves are not.
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
    Pooled: TypeAlias = PoolConnectionProxy[asyncpg.Record]

CONNECT_TIMEOUT_S = 5
ACQUIRE_TIMEOUT_S = 10
ANSWER_MARGIN_S = 5  # beyond the statement's own limit, which the server should report first
IDLE_IN_TRANSACTION_S_MAX = 30  # a stopped process must not hold its locks longer
IDLE_CONNECTION_S_MAX = 300
CONNECTIONS_MAX = 6
STATEMENT_S_MAX = 30.0
DELETE_ROWS_MAX = 10_000

# The docstring of `catalog_errors` lists them.
_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "57", "58"})
_TRANSIENT_STATES = frozenset({"55P03", "25006", "25P03", "57P05"})
_MISSING = frozenset({"42P01", "42703"})  # undefined table, undefined column


async def open_pool(
    dsn: str,
    *,
    connections_max: int,
    statement_s_max: float,
    application: str,
    check: "Callable[[Connection], Awaitable[None]] | None" = None,
) -> "Pool":
    """Open a pool with its first connection; the others are opened when they are needed.

    `check` is called with each new connection, and may raise.

    Raises:
        CatalogUnavailableError: PostgreSQL does not answer. CatalogRefusedError: it refuses the login.
    """
    # It logs a traceback when PostgreSQL is unavailable, which the caller reports in a sentence; commands configure no
    # log at all.
    logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)
    with connect_errors(dsn):
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=connections_max,
            init=check,  # type: ignore[arg-type]
            max_inactive_connection_lifetime=IDLE_CONNECTION_S_MAX,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=statement_s_max + ANSWER_MARGIN_S,
            # No statement of ours changes the session, and a failed connection is never used again, so a reset would
            # only cost a round trip for each batch.
            reset=_nothing_to_reset,
            server_settings={
                "application_name": application,
                "statement_timeout": str(round(statement_s_max * 1000)),
                "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S_MAX}s",
                "synchronous_commit": "on",
                "timezone": "UTC",
                # Our statements are short and repeated: compiling them costs more than it can gain.
                "jit": "off",
            },
        )


@asynccontextmanager
async def opened_pool(
    dsn: str, *, connections_max: int, statement_s_max: float, application: str
) -> "AsyncIterator[Pool]":
    """Open a pool as `open_pool` does, and close it on exit."""
    pool = await open_pool(
        dsn, connections_max=connections_max, statement_s_max=statement_s_max, application=application
    )
    try:
        yield pool
    finally:
        await close_pool(pool)


async def close_pool(pool: "Pool") -> None:
    """Close a pool; connections that do not close in time are terminated."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await pool.close()
    except TimeoutError:
        pool.terminate()


@asynccontextmanager
async def borrowed(pool: "Pool", dsn: str) -> AsyncIterator["Pooled"]:
    """Acquire a connection; after any error it is terminated, because its state is unknown.

    Raises:
        CatalogUnavailableError, CatalogRefusedError.
    """
    with catalog_errors(dsn):
        connection = await pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
        finally:
            await pool.release(connection)


@asynccontextmanager
async def connected(dsn: str, *, statement_s_max: float, application: str) -> AsyncIterator["Pooled"]:
    """Open one connection, and close it on exit.

    Raises:
        CatalogUnavailableError, CatalogRefusedError.
    """
    async with (
        opened_pool(dsn, connections_max=1, statement_s_max=statement_s_max, application=application) as pool,
        borrowed(pool, dsn) as connection,
    ):
        yield connection


async def delete_in_steps(
    pool: "Pool", dsn: str, statement: str, *values: object, progress: Callable[[], None] = lambda: None
) -> int:
    """Repeat a DELETE whose last parameter limits its rows until nothing is left to delete; return their number.

    No step takes long or locks many rows, so it neither times out nor holds up others. `progress` is called after each.

    Raises:
        CatalogUnavailableError, CatalogRefusedError.
    """
    total = 0
    while True:
        async with borrowed(pool, dsn) as connection:
            answer = await connection.execute(statement, *values, DELETE_ROWS_MAX)
        number = row_count(answer)
        total += number
        progress()
        if number < DELETE_ROWS_MAX:
            return total


def row_count(answer: str) -> int:
    """Return the number of rows in PostgreSQL's answer to a statement: `UPDATE 12`."""
    return int(answer.rsplit(" ", 1)[1])


@contextmanager
def connect_errors(dsn: str) -> Iterator[None]:
    """Translate the errors of connecting, among them an invalid address.

    Raises:
        CatalogUnavailableError, CatalogRefusedError.
    """
    try:
        require_readable_files(dsn)
        with catalog_errors(dsn):
            yield
    except ValueError:
        raise CatalogRefusedError("the address of PostgreSQL is invalid", where=address(dsn)) from None


_ROOT_CERTIFICATE = Path("~/.postgresql/root.crt")  # where PostgreSQL's clients look for one
NO_TLS = "PostgreSQL offers no TLS, which sslmode in HEADRACE_POSTGRES_DSN asks for"


def untrusted(reason: str) -> str:
    """Return what is said of a server's certificate that is not trusted, or names another host."""
    return f"the certificate of PostgreSQL is not valid for sslmode and sslrootcert in HEADRACE_POSTGRES_DSN: {reason}"


def require_readable_files(dsn: str) -> None:
    """Require that the certificates and keys that an address names can be loaded.

    Raises:
        CatalogRefusedError: one of them cannot, or the CA is missing. ValueError: the address is invalid.
    """
    named = {name: values[-1] for name, values in parse_qs(urlsplit(dsn).query).items()}
    if named.get("sslmode", "").startswith("verify") and not (
        "sslrootcert" in named or os.environ.get("PGSSLROOTCERT") or _ROOT_CERTIFICATE.expanduser().exists()
    ):
        what = f"sslmode={named['sslmode']} in HEADRACE_POSTGRES_DSN needs sslrootcert, the file of the CA"
        raise CatalogRefusedError(what, where=address(dsn))
    for name in {"sslrootcert", "sslcert", "sslkey"} & named.keys():
        try:
            Path(named[name]).read_bytes()
            if name == "sslrootcert":
                ssl.create_default_context(cafile=named[name])
        except OSError as error:
            what = f"the file that {name} in HEADRACE_POSTGRES_DSN names cannot be used: {error.strerror}"
            raise CatalogRefusedError(what, where=address(dsn)) from None


@contextmanager
def catalog_errors(dsn: str) -> Iterator[None]:
    """Translate PostgreSQL's errors into ours.

    Transient are the SQLSTATE classes 08 (connection exception), 40 (transaction rollback: deadlock, serialization
    failure), 53 (insufficient resources), 57 (operator intervention) and 58 (system error), and the states 55P03 (lock
    not available), 25006 (read-only transaction, after a failover), 25P03 and 57P05 (idle timeouts); also a lost
    connection and a timeout. Every other error is permanent. Source: PostgreSQL documentation, appendix A.

    Raises:
        CatalogUnavailableError: the error is transient; a retry may succeed. CatalogRefusedError: it is permanent.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        sqlstate = error.sqlstate or ""
        what = f"PostgreSQL answered {sqlstate or 'an error'}: {_reason(error)}"
        if sqlstate[:2] in _TRANSIENT_CLASSES or sqlstate in _TRANSIENT_STATES:
            raise CatalogUnavailableError(what, where=address(dsn)) from None
        if sqlstate in _MISSING:
            raise CatalogOlderError(_reason(error), where=address(dsn), sqlstate=sqlstate) from None
        raise CatalogRefusedError(what, where=address(dsn), sqlstate=sqlstate) from None
    except ssl.SSLCertVerificationError as error:
        raise CatalogRefusedError(untrusted(error.verify_message), where=address(dsn)) from None
    except TimeoutError:
        raise CatalogUnavailableError("PostgreSQL did not answer in time", where=address(dsn)) from None
    except asyncpg.ClientConfigurationError:
        raise
    except ConnectionError as error:
        if "rejected SSL" in str(error):  # asyncpg has no class for it
            raise CatalogRefusedError(NO_TLS, where=address(dsn)) from None
        raise CatalogUnavailableError(_connection_fault(error), where=address(dsn)) from None
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise CatalogUnavailableError(_connection_fault(error), where=address(dsn)) from None


def _reason(error: asyncpg.PostgresError) -> str:
    """Return the server's message, or only its class for a data error (class 22), whose message quotes the value."""
    if isinstance(error, asyncpg.DataError) or not error.args:
        return type(error).__name__
    return str(error.args[0])


def _connection_fault(error: Exception) -> str:
    match error:
        case ConnectionRefusedError():
            return "connection refused"
        case OSError():
            return f"the connection failed: {error.strerror or type(error).__name__}"
        case _:
            return "the connection was lost"


async def _nothing_to_reset(_connection: Any) -> None:
    return


_DIRECTORY = Path(__file__).parent / "sql"
_HEADING = re.compile(r"^-- (\w+) --$", re.MULTILINE)


@cache
def statements(file: str) -> dict[str, str]:
    """Return the statements of `sql/<file>.sql` by name."""
    _, *parts = _HEADING.split((_DIRECTORY / f"{file}.sql").read_text(encoding="utf-8"))
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
