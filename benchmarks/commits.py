"""The worker's transaction alone: its time, the client's CPU and PostgreSQL's CPU for each LDO; beside it, plain COPY.

.venv/bin/python -m benchmarks.commits [--rows 20000]
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import asyncpg
import psutil

from benchmarks.catalog_growth import ldo_rows
from headrace.bench.peers import copy_rows, written_rows
from headrace.initialize import initialize
from headrace.native import temporary_stack
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.store.catalog.catalog import Catalog
from tests.servers import settings_of

BATCHES_ROWS = (1, 100, 1000)
_WARM_UP = 3
_TRANSACTIONS_MAX = 200  # of one size


def main() -> None:
    """Print a line for each size of a transaction."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commits", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000, help="LDOs for each size of a transaction")
    rows = parser.parse_args().rows
    with temporary_stack("local", services=()) as stack:
        settings = settings_of(stack)
        initialize(settings)
        asyncio.run(_measure(settings.postgres_dsn.get_secret_value(), rows))


async def _measure(dsn: str, rows: int) -> None:
    catalog = await Catalog.open(dsn, connections_max=1)
    connection: Any = await asyncpg.connect(dsn)
    first = count(step=max(BATCHES_ROWS))
    sys.stdout.write(f"{'':8}{'LDOs':>6}{'ms':>10}{'ms each':>10}{'client CPU ms':>15}{'PostgreSQL CPU ms':>19}\n")
    try:
        since = await connection.fetchval("select clock_timestamp()")
        for batch_rows in BATCHES_ROWS:
            await _size(catalog, await _backend(connection), first, (batch_rows, rows))
        copied = await written_rows(connection, input_topic(Kind.LDO).name, since)
        batch_rows, own = max(BATCHES_ROWS), psutil.Process(connection.get_server_pid())
        with _line("COPY", own, batch_rows, len(copied["sightings"])):
            await copy_rows(connection, copied, batch_rows)
    finally:
        await connection.close()
        await catalog.close()


async def _size(catalog: Catalog, backend: psutil.Process, first: Iterator[int], sizes: tuple[int, int]) -> None:
    batch_rows, rows = sizes
    transactions = min(_TRANSACTIONS_MAX, max(1, rows // batch_rows))
    batches = [ldo_rows(next(first), batch_rows) for _ in range(transactions + _WARM_UP)]
    for batch in batches[:_WARM_UP]:
        await catalog.commit(batch)
    with _line("worker", backend, batch_rows, transactions * batch_rows):
        for batch in batches[_WARM_UP:]:
            await catalog.commit(batch)


@contextmanager
def _line(what: str, backend: psutil.Process, batch_rows: int, rows: int) -> Iterator[None]:
    """Print what so many rows take within the context."""
    began, began_cpu_s, began_server_s = time.perf_counter(), time.process_time(), _cpu_s(backend)
    yield
    took = (time.perf_counter() - began, time.process_time() - began_cpu_s, _cpu_s(backend) - began_server_s)
    each, client, server = (seconds * 1000 / rows for seconds in took)
    sys.stdout.write(f"{what:8}{batch_rows:>6}{each * batch_rows:>10.2f}{each:>10.4f}{client:>15.4f}{server:>19.4f}\n")


async def _backend(connection: Any) -> psutil.Process:
    """Return the process of PostgreSQL that serves the catalog."""
    pid = await connection.fetchval(
        "select pid from pg_stat_activity where application_name = 'headrace' and pid <> pg_backend_pid()"
    )
    return psutil.Process(pid)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
