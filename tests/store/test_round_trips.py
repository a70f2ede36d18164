"""How often a transaction of the worker waits for PostgreSQL: the messages that end a round trip, counted on the wire.

Each bound is the present figure, whatever the number of rows.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest

from headrace.schemas.catalog_rows import RowBatch
from headrace.store.catalog.catalog import Catalog
from tests.store.store_rows import batch, letter

LOOK_UP_MAX = 1
COMMIT_MAX = 9  # begin, lock, collection, blobs, records, sightings, outbox, progress, commit
DUPLICATES_MAX = 10  # without the outbox, but with copies in other packs, and further sites
DEAD_LETTERS_MAX = 7

_LENGTH = struct.Struct("!i")
_SSL_REQUEST = 80877103
_ENDS_OF_A_ROUND_TRIP = {b"S"[0], b"Q"[0]}  # Sync, and a query of the simple protocol


class CountingProxy:
    """Passes on the bytes of connections to PostgreSQL, and counts the round trips that a client waits for."""

    def __init__(self, dsn: str) -> None:
        self._server = urlsplit(dsn)
        self.round_trips = 0
        self.dsn = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["CountingProxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        login = self._server.netloc.rpartition("@")[0]
        self.dsn = self._server._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # at the end of a test
            await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(self._server.hostname, self._server.port)
        await asyncio.gather(_pass_on(reader, requests, self._counter()), _pass_on(answers, writer, lambda _: None))

    def _counter(self) -> Callable[[bytes], None]:
        """Return what looks at a client's bytes: requests without a type until the first that starts a session."""
        waiting = bytearray()
        began = False

        def look(data: bytes) -> None:
            nonlocal began
            waiting.extend(data)
            while len(waiting) >= 4 + began:
                end = began + _LENGTH.unpack_from(waiting, began)[0]
                if len(waiting) < end:
                    return
                if not began:
                    began = _LENGTH.unpack_from(waiting, 4)[0] != _SSL_REQUEST
                elif waiting[0] in _ENDS_OF_A_ROUND_TRIP:
                    self.round_trips += 1
                del waiting[:end]

        return look


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], None]) -> None:
    with suppress(ConnectionError):  # a client may end without a word
        while data := await reader.read(65536):
            look(data)
            writer.write(data)
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def proxy(postgres_dsn: str) -> AsyncIterator[CountingProxy]:
    async with CountingProxy(postgres_dsn).running() as running:
        yield running


@pytest.fixture
async def counted(proxy: CountingProxy) -> AsyncIterator[Catalog]:
    """A catalog behind the proxy that has prepared its statements already."""
    catalog = await Catalog.open(proxy.dsn, connections_max=1)
    for rows in (_rows(range(3)), _rows(range(3)), _letters(range(900, 903))):
        await catalog.look_up([blob.digest for blob in rows.blobs])
        await catalog.commit(rows)
    yield catalog
    await catalog.close()


def _rows(numbers: range) -> RowBatch:
    rows = batch(numbers)
    rows.progress[("edge.frames.v1", 0)] = numbers[-1] + 1
    return rows


def _letters(numbers: range) -> RowBatch:
    rows = batch([], letters=[letter(number) for number in numbers])
    rows.progress[("edge.frames.v1", 0)] = numbers[-1] + 1
    return rows


async def _round_trips(proxy: CountingProxy, catalog: Catalog, rows: RowBatch) -> int:
    if catalog._notifying is not None:  # listeners hear of a commit a little later
        await catalog._notifying
    before = proxy.round_trips
    await catalog.commit(rows)
    return proxy.round_trips - before


@pytest.mark.parametrize("count", [1, 500])
async def test_a_transaction_takes_as_many_round_trips_for_any_number_of_rows(
    proxy: CountingProxy, counted: Catalog, count: int
) -> None:
    rows = _rows(range(1000, 1000 + count))
    before = proxy.round_trips
    await counted.look_up([blob.digest for blob in rows.blobs])
    assert proxy.round_trips - before <= LOOK_UP_MAX
    assert 0 < await _round_trips(proxy, counted, rows) <= COMMIT_MAX


async def test_duplicates_and_dead_letters_take_fewer(proxy: CountingProxy, counted: Catalog) -> None:
    rows = _rows(range(1000, 1010))
    await counted.commit(rows)
    assert await _round_trips(proxy, counted, rows) <= DUPLICATES_MAX
    assert await _round_trips(proxy, counted, _letters(range(2000, 2010))) <= DEAD_LETTERS_MAX
