"""Sessions on a connection of their own: the leader lock of a relay, and listeners for notifications.

The lock is a session's advisory lock, so it ends with the connection. It keeps two relays from fencing each other
again and again; that two of them do no harm rests on Kafka's fencing by transactional id.
"""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.store.errors import CatalogUnavailableError
from headrace.store.locks import LEADER_LOCK
from headrace.store.postgres import CONNECT_TIMEOUT_S, catalog_errors, connect_errors, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Connection

OUTBOX_CHANNEL = "headrace_outbox"
INGESTED_CHANNEL = "headrace_ingested"
RETRY_S = 1.0  # between attempts to acquire the leader lock, and to reconnect
PING = "select 1"
PING_S = 5.0
ANSWER_S_MAX = 5.0
SESSION_IDLE_S_MAX = 30  # a stopped process loses the leader lock, because it no longer pings

# TCP keepalive: the server probes after 5 idle seconds and closes the connection after 4 missed answers.
_SESSION = {
    "application_name": "headrace session",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "4",
    "idle_session_timeout": f"{SESSION_IDLE_S_MAX}s",
}


class _Session:
    """A connection that is pinged; `lost` is set when it is closed."""

    def __init__(self, connection: "Connection") -> None:
        self.lost = asyncio.Event()
        self.connection = connection
        connection.add_termination_listener(lambda _connection: self.lost.set())
        self._pings = asyncio.create_task(self._ping(), name="postgres session ping")

    async def _ping(self) -> None:
        try:
            while not self.lost.is_set():
                await asyncio.sleep(PING_S)
                await self.connection.execute(PING, timeout=ANSWER_S_MAX)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.cut()

    def cut(self) -> None:
        """Terminate the connection at once."""
        self.lost.set()
        self.connection.terminate()

    async def end(self) -> None:
        """Close the connection, or terminate it if the server does not answer in time."""
        self._pings.cancel()
        with suppress(asyncio.CancelledError):
            await self._pings
        try:
            await self.connection.close(timeout=ANSWER_S_MAX)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.cut()
        self.lost.set()


class LeaderLock:
    """The leader lock. Stop publishing as soon as `lost` is set: another relay may hold it from then on."""

    def __init__(self, session: _Session) -> None:
        """Wrap the session that holds the lock; see `try_leader_lock`."""
        self._session = session
        self.lost = session.lost

    async def release(self) -> None:
        """Release the lock; may be repeated."""
        await self._session.end()


async def try_leader_lock(dsn: str, lock: int = LEADER_LOCK) -> LeaderLock | None:
    """Acquire the relay's leader lock, or another advisory lock; return None while another session holds it.

    Raises:
        CatalogUnavailableError, CatalogRefusedError.
    """
    connection = await _connect(dsn)
    try:
        with catalog_errors(dsn):
            is_acquired = await connection.fetchval(statements("outbox")["try_lock"], lock)
        if is_acquired:
            return LeaderLock(_Session(connection))
    except BaseException:
        connection.terminate()
        raise
    with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        await connection.close(timeout=ANSWER_S_MAX)
    return None


async def wait_for_leader_lock(dsn: str) -> LeaderLock:
    """Try once a second to acquire the leader lock, also through an outage of PostgreSQL."""
    while True:
        with suppress(CatalogUnavailableError):
            leader_lock = await try_leader_lock(dsn)
            if leader_lock is not None:
                return leader_lock
        await asyncio.sleep(RETRY_S)


class CommitListener:
    """Sets `notified` when workers have committed, and after a lost connection.

    It reconnects by itself. Clear `notified` before a query, and query periodically without it: it is a hint.
    """

    def __init__(self, dsn: str, channel: str) -> None:
        """Listen once entered: `async with listen(dsn) as listener`."""
        self.notified = asyncio.Event()
        self._dsn = dsn
        self._channel = channel
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"listener of {self._channel}")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        is_down = False
        while True:
            try:
                await self._listen_once()
                is_down = False
            except Exception as error:  # noqa: BLE001 - the relay would continue without notifications, unnoticed
                if not is_down:
                    why = error.what if isinstance(error, HeadraceError) else f"{type(error).__name__}: {error}"
                    get_log().warning(Action.RETRYING, service="postgres", task=f"listener of {self._channel}", why=why)
                is_down = True
            await asyncio.sleep(RETRY_S)

    async def _listen_once(self) -> None:
        connection = await _connect(self._dsn)
        session = _Session(connection)
        try:
            with catalog_errors(self._dsn):
                await connection.add_listener(self._channel, self._on_notice)
            self.notified.set()
            await session.lost.wait()
        finally:
            await session.end()

    def _on_notice(self, *_notice: Any) -> None:
        self.notified.set()


def listen(dsn: str, channel: str = INGESTED_CHANNEL) -> CommitListener:
    """Return a listener that is not started yet, for every commit or, of OUTBOX_CHANNEL, for new announcements."""
    return CommitListener(dsn, channel)


async def _connect(dsn: str) -> "Connection":
    with connect_errors(dsn):
        return await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=ANSWER_S_MAX, server_settings=_SESSION
        )
