"""PostgreSQL for callers without an event loop: one statement at a time, on a connection that comes back."""

import asyncio
from threading import Lock
from typing import Any

import asyncpg

_ANSWER_S_MAX = 10.0

_RELAY = """
select (select count(*) from outbox where published_at is null), (select sum(next_offset) from relay_checkpoints)
"""


class FaultsCatalog:
    """Asks the catalog, straight and not through the proxy. Every method raises OSError where it does not answer."""

    def __init__(self, dsn: str) -> None:
        """Name the catalog; it is connected to when it is first asked."""
        self._dsn = dsn
        self._loop = asyncio.new_event_loop()
        self._lock = Lock()
        self._connection: Any = None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()
            self._loop.run_until_complete(asyncio.sleep(0))  # the transport's own end
            self._loop.close()

    def fetch(self, text: str, *values: object) -> list[Any]:
        """Return the rows of a statement."""
        with self._lock:
            was_there = self._connection is not None
            try:
                return self._ask(text, *values)
            except OSError:
                if not was_there:
                    raise
            return self._ask(text, *values)  # the connection may have died long ago, with a fault

    def unpublished(self) -> int:
        """Return how many announcements wait."""
        return int(self.fetch("select count(*) from outbox where published_at is null")[0][0])

    def relay_progress(self) -> tuple[int, int]:
        """Return how many announcements wait, and a figure that grows with each transaction of the relay."""
        ((waiting, offsets),) = self.fetch(_RELAY)
        return int(waiting), int(offsets or 0)

    def deliveries(self) -> int:
        """Return how many messages have left a sighting or a dead letter."""
        return int(self.fetch("select (select count(*) from sightings) + (select count(*) from dead_letters)")[0][0])

    def _ask(self, text: str, *values: object) -> list[Any]:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(self._fetch(text, *values), _ANSWER_S_MAX))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, OSError) as error:
            self._drop()
            raise OSError(str(error)) from error

    async def _fetch(self, text: str, *values: object) -> list[Any]:
        if self._connection is None:
            self._connection = await asyncpg.connect(self._dsn, timeout=_ANSWER_S_MAX)
        return list(await self._connection.fetch(text, *values))

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
