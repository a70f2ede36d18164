"""What a relay holds for as long as it runs, each on a connection of its own: the right to be the one that publishes,
and an ear for new rows.

The right is a session's advisory lock: it ends with the connection, whatever ended that. It spares two relays from
fencing each other for ever; what makes two of them harmless is Kafka's fencing by transactional id.
"""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.store.errors import CatalogUnavailableError
from headrace.store.postgres import CONNECT_TIMEOUT_S, catalog_errors, connect_errors, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Connection

CHANNEL = "headrace_outbox"
RETRY_S = 1.0  # between tries to lead, and to connect again
PING = "select 1"
PING_S = 5.0
ANSWER_S_MAX = 5.0
SESSION_IDLE_S_MAX = 30  # a stopped process loses the lead: it pings no more

_LEAD_LOCK = 0x48_52_52_4C  # "HRRL"

# A machine that vanished says nothing: the server asks after 5 idle seconds and gives up after 4 answers missed.
_SESSION = {
    "application_name": "headrace relay session",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "4",
    "idle_session_timeout": f"{SESSION_IDLE_S_MAX}s",
}


class _Session:
    """A connection that is pinged; `lost` is set when it is gone."""

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
        """End the connection at once, from whatever state."""
        self.lost.set()
        self.connection.terminate()

    async def end(self) -> None:
        """Say goodbye; what does not answer in time is cut."""
        self._pings.cancel()
        with suppress(asyncio.CancelledError):
            await self._pings
        try:
            await self.connection.close(timeout=ANSWER_S_MAX)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.cut()
        self.lost.set()


class Lead:
    """The right to publish. Stop as soon as `lost` is set: another relay may lead from then on."""

    def __init__(self, session: _Session) -> None:
        """Hold the lock of a session; see `try_lead`."""
        self._session = session
        self.lost = session.lost

    async def release(self) -> None:
        """Give the lead up; may be repeated."""
        await self._session.end()


async def try_lead(dsn: str) -> Lead | None:
    """Take the lead if it is free; None while another session holds it.

    Raises:
        CatalogUnavailableError, CatalogRefusedError.
    """
    connection = await _connect(dsn)
    try:
        with catalog_errors(dsn):
            led = await connection.fetchval(statements("outbox")["try_lead"], _LEAD_LOCK)
        if led:
            return Lead(_Session(connection))
    except BaseException:
        connection.terminate()
        raise
    with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        await connection.close(timeout=ANSWER_S_MAX)
    return None


async def wait_to_lead(dsn: str) -> Lead:
    """Try once a second until the lead is ours; an outage of PostgreSQL is waited out."""
    while True:
        with suppress(CatalogUnavailableError):
            lead = await try_lead(dsn)
            if lead is not None:
                return lead
        await asyncio.sleep(RETRY_S)


class OutboxListener:
    """Sets `heard` when rows were added to the outbox, and after each gap in which that may have gone unheard.

    It connects again by itself. Clear `heard` before looking, and look now and then without it: it is a hint.
    """

    def __init__(self, dsn: str) -> None:
        """Listen once entered: `async with outbox.listen() as listener`."""
        self.heard = asyncio.Event()
        self._dsn = dsn
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="outbox listener")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        deaf = False
        while True:
            try:
                await self._listen_once()
                deaf = False
            except Exception as error:  # noqa: BLE001 - the relay would go on and only hear nothing more, unseen
                if not deaf:
                    why = error.what if isinstance(error, HeadraceError) else f"{type(error).__name__}: {error}"
                    get_log().warning(Action.RETRYING, service="postgres", task="outbox listener", why=why)
                deaf = True
            await asyncio.sleep(RETRY_S)

    async def _listen_once(self) -> None:
        connection = await _connect(self._dsn)
        session = _Session(connection)
        try:
            with catalog_errors(self._dsn):
                await connection.add_listener(CHANNEL, self._on_notice)
            self.heard.set()
            await session.lost.wait()
        finally:
            await session.end()

    def _on_notice(self, *_notice: Any) -> None:
        self.heard.set()


def listen(dsn: str) -> OutboxListener:
    """Return a listener that is not yet running."""
    return OutboxListener(dsn)


async def _connect(dsn: str) -> "Connection":
    with connect_errors(dsn):
        return await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=ANSWER_S_MAX, server_settings=_SESSION
        )
