"""The worker's transaction alone: time, round trips' CPU in the client, and PostgreSQL's CPU, for each LDO.

.venv/bin/python -m benchmarks.commits [--rows 20000]
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import asyncpg
import psutil

from benchmarks.catalog_growth import ldo_rows
from headrace.initialize import initialize
from headrace.native import temporary_stack
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
    sys.stdout.write(f"{'LDOs':>6}{'ms':>10}{'ms each':>10}{'client CPU ms':>15}{'PostgreSQL CPU ms':>19}\n")
    try:
        for batch_rows in BATCHES_ROWS:
            await _size(catalog, await _backend(connection), first, (batch_rows, rows))
    finally:
        await connection.close()
        await catalog.close()


async def _size(catalog: Catalog, backend: psutil.Process, first: Iterator[int], sizes: tuple[int, int]) -> None:
    batch_rows, rows = sizes
    transactions = min(_TRANSACTIONS_MAX, max(1, rows // batch_rows))
    batches = [ldo_rows(next(first), batch_rows) for _ in range(transactions + _WARM_UP)]
    for batch in batches[:_WARM_UP]:
        await catalog.commit(batch)
    began, began_cpu_s, began_server_s = time.perf_counter(), time.process_time(), _cpu_s(backend)
    for batch in batches[_WARM_UP:]:
        await catalog.commit(batch)
    took = (time.perf_counter() - began, time.process_time() - began_cpu_s, _cpu_s(backend) - began_server_s)
    each, client, server = (seconds * 1000 / (transactions * batch_rows) for seconds in took)
    sys.stdout.write(f"{batch_rows:>6}{each * batch_rows:>10.2f}{each:>10.4f}{client:>15.4f}{server:>19.4f}\n")


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
