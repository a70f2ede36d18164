import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random

import asyncpg
import psutil

from tests.faults.registry import experiment
from tests.faults.world import FaultsWorld

_LOCK_S_SHORT = 10.0
_LOCK_S_LONG = 60.0
_FULL_S = (4.0, 10.0)
_APART_S = (1.0, 3.0)
_COMMIT_S_MAX = 90.0
_POLL_S = 0.01
_BACK_S_MAX = 60.0

# A deferred trigger runs inside COMMIT, so it holds every commit open just long enough to cut its connection.
_SLOW_COMMIT = """
create or replace function faults_slow_commit() returns trigger language plpgsql
as $$ begin perform pg_sleep(0.3); return null; end $$;
create constraint trigger faults_slow_commit after insert on outbox
deferrable initially deferred for each row execute function faults_slow_commit();
"""
_PLAIN_COMMIT = "drop trigger if exists faults_slow_commit on outbox; drop function if exists faults_slow_commit()"
_COMMITTING = """
select count(*) from pg_stat_activity
where application_name = 'headrace-worker' and state = 'active' and query ilike 'commit%'
"""


@experiment(
    "E8", "PostgreSQL: immediate restart, backend killed, cut at COMMIT, lock, out of connections", ci=5, long=220
)
def harm_postgres(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Let PostgreSQL go away, and be there and of no use, one after another."""
    kinds: list[Callable[[FaultsWorld, Random], None]] = []
    for index in range(count):
        if not kinds:
            kinds = [_restarted, _backend_killed, _cut_at_commit, _locked(count, index), _full]
            random.shuffle(kinds)
        kinds.pop()(world, random)
        world.wait_servers()
        time.sleep(random.uniform(*_APART_S))
    return Counter()


def _restarted(world: FaultsWorld, _random: Random) -> None:
    process = world.server("postgres")
    if process is not None:
        with world.fault("postgres immediate restart"):
            process.send_signal(signal.SIGQUIT)
            time.sleep(1)
            world.wait_servers()


def _backend_killed(world: FaultsWorld, random: Random) -> None:
    while True:
        with suppress(OSError, psutil.NoSuchProcess):
            rows = world.catalog.fetch("select pid from pg_stat_activity where application_name like 'headrace%'")
            if rows:
                with world.fault("postgres backend killed"):
                    _end_backend(world, random.choice(rows)[0], random)
                return
        time.sleep(0.2)


def _end_backend(world: FaultsWorld, pid: int, random: Random) -> None:
    if random.random() < 0.5:
        world.catalog.fetch("select pg_terminate_backend($1)", pid)
    else:  # SIGKILL of one lets PostgreSQL end all and recover
        psutil.Process(pid).kill()
        time.sleep(0.5)


def _cut_at_commit(world: FaultsWorld, _random: Random) -> None:
    """Cut the connections while a COMMIT is under way: it becomes durable, and nobody is told."""
    with world.fault("connection cut at COMMIT"):
        _execute(world, _SLOW_COMMIT)
        try:
            deadline = time.monotonic() + _COMMIT_S_MAX
            while not _committing(world):
                if time.monotonic() > deadline:
                    raise TimeoutError("no worker committed anything that could be cut off")
                time.sleep(_POLL_S)
            world.proxies.cut("postgres")
        finally:
            _execute(world, _PLAIN_COMMIT)


def _committing(world: FaultsWorld) -> bool:
    with suppress(OSError):
        return bool(world.catalog.fetch(_COMMITTING)[0][0])
    return False


def _locked(count: int, index: int) -> Callable[[FaultsWorld, Random], None]:
    """Hold the outbox for as long as the issue says in a long run, and for less in a short one."""
    longest_s = _LOCK_S_LONG if count >= 50 and index % 4 == 0 else _LOCK_S_SHORT

    def lock(world: FaultsWorld, random: Random) -> None:
        seconds = longest_s if longest_s == _LOCK_S_LONG else random.uniform(3, longest_s)
        with world.fault("postgres lock"), _session(world) as execute:
            execute("begin; lock table outbox in access exclusive mode")
            time.sleep(seconds)
            execute("rollback")

    return lock


def _full(world: FaultsWorld, random: Random) -> None:
    with world.fault("postgres out of connections"):
        asyncio.run(_take_all_connections(world, random.uniform(*_FULL_S)))


async def _take_all_connections(world: FaultsWorld, seconds: float) -> None:
    """Take every connection that is left, and then those of the service, which finds none when it comes back."""
    dsn = world.settings.postgres_dsn.get_secret_value()
    taken = [await _connected(dsn)]
    end, full = time.monotonic() + seconds, False
    try:
        while time.monotonic() < end or not full:
            try:
                taken.append(await asyncpg.connect(dsn, timeout=5))
            except asyncpg.TooManyConnectionsError:
                if not full:
                    full = True
                    end = max(end, time.monotonic() + seconds)
                    await asyncio.to_thread(world.proxies.cut, "postgres")
                await asyncio.sleep(0.05)
    finally:
        for connection in taken:
            connection.terminate()


def _execute(world: FaultsWorld, text: str) -> None:
    with _session(world) as execute:
        execute(text)


@contextmanager
def _session(world: FaultsWorld) -> Iterator[Callable[[str], None]]:
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(_connected(world.settings.postgres_dsn.get_secret_value()))

    def execute(text: str) -> None:
        loop.run_until_complete(connection.execute(text))

    try:
        yield execute
    finally:
        connection.terminate()
        loop.close()


async def _connected(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    """Connect, also where PostgreSQL is still recovering from the fault before."""
    deadline = time.monotonic() + _BACK_S_MAX
    while True:
        try:
            return await asyncpg.connect(dsn, timeout=10)
        except (asyncpg.PostgresError, OSError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
