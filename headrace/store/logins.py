"""PostgreSQL logins of the processes: each a member of its process's role, with a password from the settings."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import psycopg
from psycopg import sql

from headrace.runtime.settings import Settings
from headrace.store.errors import CatalogRefusedError, CatalogUnavailableError, address
from headrace.store.locks import ROLES_LOCK

CONNECT_TIMEOUT_S = 10
NAME_BYTES_MAX = 63
_PREFIX = "headrace_"
_STATEMENT_S_MAX = 60

PASSWORD_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "headrace_worker": "postgres_worker_password",
        "headrace_relay": "postgres_relay_password",
        "headrace_gateway": "postgres_gateway_password",
        "headrace_capture": "postgres_capture_password",
        "headrace_operator": "postgres_operator_password",
    }
)
"""The setting with the password of each role's login."""


def passwords_of(settings: Settings) -> dict[str, str]:
    """Return the password of each role whose login is to be made."""
    passwords = {role: getattr(settings, name).get_secret_value() for role, name in PASSWORD_SETTINGS.items()}
    return {role: password for role, password in passwords.items() if password}


def login_of(database: str, role: str) -> str:
    """Return the name of a role's login; it begins with the database's, because logins belong to a whole server."""
    return f"{database}_{role.removeprefix(_PREFIX)}_login"


def make_logins(dsn: str, passwords: Mapping[str, str]) -> list[str]:
    """Create a login for each role that does not have one, and set its password; blocks, may be repeated.

    PostgreSQL gets a SCRAM verifier and never the password, which thus is in no log of it. Returns the logins' names.

    Raises:
        CatalogUnavailableError. CatalogRefusedError: the user may not create logins, or the database's name is too long
            for them.
    """
    with _connected(dsn) as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", [ROLES_LOCK])
        database = connection.info.dbname
        logins = {role: login_of(database, role) for role in passwords}
        for role, login in logins.items():
            if len(login.encode()) > NAME_BYTES_MAX:
                raise CatalogRefusedError(f"the name of the login {login} is too long", where=address(dsn))
            _make(connection, role, login, passwords[role])
    return list(logins.values())


def _make(connection: "psycopg.Connection[tuple[object, ...]]", role: str, login: str, password: str) -> None:
    name, member_of = sql.Identifier(login), sql.Identifier(role)
    if connection.execute("select from pg_roles where rolname = %s", [login]).fetchone() is None:
        connection.execute(sql.SQL("create role {} login").format(name))
    verifier = connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256")
    connection.execute(sql.SQL("alter role {} login password {}").format(name, sql.Literal(verifier.decode())))
    connection.execute(sql.SQL("grant {} to {}").format(member_of, name))
    database = sql.Identifier(connection.info.dbname)
    connection.execute(sql.SQL("grant connect on database {} to {}").format(database, name))


@contextmanager
def _connected(dsn: str) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
    """Open a connection with one transaction, its errors translated into the catalog's."""
    try:
        with psycopg.connect(
            dsn,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="headrace init",
            options=f"-c statement_timeout={_STATEMENT_S_MAX * 1000}",
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        reason = error.sqlstate or "no connection"
        raise CatalogUnavailableError(f"PostgreSQL does not answer: {reason}", where=address(dsn)) from None
    except psycopg.Error as error:
        what = f"PostgreSQL answered {error.sqlstate}: {error.diag.message_primary}"
        raise CatalogRefusedError(what, where=address(dsn), sqlstate=error.sqlstate or "") from None
