"""One worker against two, and the memory of a worker during a long backlog; bodies go to a store in memory."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from headrace.bench.backlog import WORKERS, commits, drain, ldos, publish
from headrace.bench.processes import Bench, running
from headrace.initialize import initialize
from headrace.native import temporary_stack
from headrace.runtime.errors import HeadraceError
from headrace.schemas.events import Kind
from tests.servers import MEMORY, settings_of

Say: TypeAlias = Callable[[str], None]

PUBLISHED_AT_ONCE = 50_000
SAMPLES = 20
STALLED_S_MAX = 120.0
_POLL_S = 0.5
_MIB = 1024 * 1024


def scale_out(count: int, say: Say) -> dict[str, Any]:
    """Drain the same number of LDOs with one worker, and with two."""
    result = {}
    with _bench(in_memory=True, say=say) as bench:
        for workers in (1, 2):
            _publish(bench, count, say)
            say(f"draining with {workers} of 2 workers")
            drained = drain(bench, Kind.LDO, count, workers=workers)
            result[f"workers_{workers}"] = {
                "ldos": count,
                "stored_per_s": round(drained.committed.per_s),
                "worker_cpu_ms": round(drained.worker.cpu_ms_each, 4),
                "server_cpu_ms": {name: round(worked.cpu_ms_each, 4) for name, worked in drained.servers.items()},
            }
    return result


def backlog_memory(count: int, say: Say) -> dict[str, Any]:
    """Drain so many LDOs with one worker; return its resident memory on the way."""
    with _bench(in_memory=False, say=say) as bench:
        _publish(bench, count, say)
        return asyncio.run(_memory(bench, count, say))


async def _memory(bench: Bench, count: int, say: Say) -> dict[str, Any]:
    samples: list[tuple[int, float]] = []
    async with commits(bench.settings, Kind.LDO) as queries:
        with running(bench, "relay") as relay, running(bench, "worker", "--kinds", WORKERS[Kind.LDO]) as worker:
            recorded, moved = 0, time.monotonic()
            while recorded < count:
                await asyncio.sleep(_POLL_S)
                before, recorded = recorded, await queries.recorded()
                for process in (relay, worker):
                    process.sample(recorded)
                if recorded and recorded * SAMPLES // count >= len(samples):
                    samples.append((recorded, round(worker.rss_bytes / _MIB, 1)))
                    say(f"{recorded} of {count} recorded, {samples[-1][1]} MiB")
                if recorded > before:
                    moved = time.monotonic()
                elif time.monotonic() - moved > STALLED_S_MAX:
                    raise HeadraceError("bench_late", f"only {recorded} of {count} messages are recorded")
            worked = worker.worked(count)
        committed = await queries.committed()
    return {
        "ldos": count,
        "stored_per_s": round(committed.per_s),
        "worker_cpu_ms": round(worked.cpu_ms_each, 4),
        "rss_mib_max": round(worked.rss_bytes_max / _MIB, 1),
        "recorded_and_rss_mib": samples,
    }


def _publish(bench: Bench, count: int, say: Say) -> None:
    for start in range(0, count, PUBLISHED_AT_ONCE):
        publish(bench.settings, ldos(min(PUBLISHED_AT_ONCE, count - start)))
    say(f"{count} LDOs published")


@contextmanager
def _bench(*, in_memory: bool, say: Say) -> Iterator[Bench]:
    memory = MEMORY if in_memory and MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="headrace-growth-") as folder,
        tempfile.TemporaryDirectory(prefix="headrace-store-", dir=memory) as store,
        temporary_stack("local", services=(), progress=say) as info,
    ):
        settings = settings_of(info).model_copy(update={"store_url": f"file://{store}"})
        initialize(settings)
        yield Bench(info, settings, Path(folder), more={"HEADRACE_STORE_URL": settings.store_url})
