"""Run the benchmarks in sequence, in a temporary stack of real servers.

Latency is measured at a steady rate, from the arrival of a message in Kafka to its announcement, by Kafka's timestamps.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path
from random import Random
from typing import Any

from confluent_kafka import TopicPartition

from headrace.bench import bodies
from headrace.bench.backlog import Bench, Drained, drain, frames, ldos, publish
from headrace.bench.bodies import FRAME_BYTES
from headrace.bench.figures import TARGETS, Figure, of_peer, rate
from headrace.bench.processes import MeasuredProcess, running
from headrace.bench.uploads import CLIENTS, uploads
from headrace.demo.acknowledgements import Acknowledgements
from headrace.demo.listener import AnnouncementListener
from headrace.demo.reconcile import latencies_ms
from headrace.demo.report import percentile
from headrace.initialize import initialize
from headrace.native import Store, temporary_stack
from headrace.producers import Publisher
from headrace.producers.source import unix_us
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.runtime.stack_settings import settings_of_stack
from headrace.runtime.topic_reader import offset_bounds, partitions_of, reading_consumer
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs

FRAMES = 2000
LDOS_PER_FRAME = 10
SECONDS = 20.0
PUTS_AT_ONCE = 16
_READ_AT_ONCE = 1000
_POLL_S = 0.02  # the last call waits this long in vain

Say = Callable[[str], None]
FRAMES_PER_S = 50
_WARM_UP_FRAMES = 100  # warm-up: connections and imports
_ARRIVE_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The store, the number of frames (and ten times as many LDOs), and the seconds of latency and uploads."""

    store: Store
    frames: int = FRAMES
    seconds: float = SECONDS


def run(cases: list[str], options: BenchOptions, say: Say) -> tuple[list[Figure], dict[str, Any]]:
    """Run the benchmarks; returns the figures and the machine: cores, load average before the run, store.

    Raises:
        HeadraceError: a server did not start, or a process ended.
    """
    machine: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "store": options.store,
    }
    figures: list[Figure] = []
    with _bench(options.store, say) as bench:
        for case in cases:
            figures += CASES[case](bench, options, say)
    return figures, machine


def _frames(bench: Bench, options: BenchOptions, say: Say) -> list[Figure]:
    count = options.frames
    peer = _put_peer(bench, count, say)
    all_distinct = _drained(bench, Kind.FRAME, publish(bench.settings, frames(count)), say)
    half = _drained(bench, Kind.FRAME, publish(bench.settings, frames(count, distinct_share=0.5)), say)
    through, half_through = all_distinct.committed.through_per_s, half.committed.through_per_s
    plain = f"the store's plain PUTs, {PUTS_AT_ONCE} at a time ({peer:.0f}/s)"
    worker = all_distinct.worker
    megabytes = through * FRAME_BYTES / 1e6
    return [
        Figure(
            "frames_per_s",
            "frames of 200 KB, all distinct",
            through,
            "/s",
            plain,
            of_peer(through, peer),
            TARGETS["frames"],
        ),
        Figure("frames_batch", "frames in one transaction, on average", all_distinct.committed.batch_rows, ""),
        Figure("frames_mb_per_s", "the same in bytes", megabytes, "MB/s"),
        Figure(
            "frames_half_per_s",
            "the same, half of them duplicates",
            half_through,
            "/s",
            "all distinct",
            of_peer(half_through, through),
            TARGETS["frames_half"],
        ),
        Figure("frames_cpu_ms", "worker CPU per frame", worker.cpu_ms_each, "ms", "", None, TARGETS["frames_cpu"]),
        Figure(
            "frames_rss_mb",
            "worker memory at its largest",
            worker.rss_bytes_max / 1e6,
            "MB",
            "",
            None,
            TARGETS["frames_memory"],
        ),
    ]


def _ldos(bench: Bench, options: BenchOptions, say: Say) -> list[Figure]:
    drained = _drained(bench, Kind.LDO, publish(bench.settings, ldos(options.frames * LDOS_PER_FRAME)), say)
    say("ldos: reading the same topic with librdkafka only")
    peer = reads_per_s(bench.settings, input_topic(Kind.LDO).name, options.frames * LDOS_PER_FRAME)
    through, worker = drained.committed.through_per_s, drained.worker
    plain = f"librdkafka's plain reads ({peer:,.0f}/s)"
    return [
        Figure("ldos_per_s", "LDOs of 2 KB, announced", through, "/s", plain, of_peer(through, peer), TARGETS["ldos"]),
        Figure("ldos_batch", "LDOs in one transaction, on average", drained.committed.batch_rows, ""),
        Figure("ldos_stored_per_s", "the same until the last commit", drained.committed.per_s, "/s"),
        Figure("ldos_cpu_ms", "worker CPU per LDO", worker.cpu_ms_each, "ms", "", None, TARGETS["ldos_cpu"]),
        Figure("ldos_rss_mb", "worker memory at its largest", worker.rss_bytes_max / 1e6, "MB"),
    ]


def _latency(bench: Bench, options: BenchOptions, say: Say) -> list[Figure]:
    say(f"latency: {FRAMES_PER_S} frames a second for {options.seconds:.0f} s")
    latencies = live(bench, options.seconds)
    what = f"published → announced, {FRAMES_PER_S} frames/s"
    return [
        Figure(
            f"latency_ms_p{name}",
            f"{what}, p{name}",
            percentile(latencies, share) or 0.0,
            "ms",
            "",
            None,
            TARGETS[f"latency_p{name}"],
        )
        for name, share in (("50", 0.5), ("99", 0.99))
    ]


def _gateway(bench: Bench, options: BenchOptions, say: Say) -> list[Figure]:
    peer = _put_peer(bench, options.frames, say)
    say(f"gateway: {CLIENTS} clients upload files of 200 KB for {options.seconds:.0f} s")
    figures = uploads(bench, options.seconds)
    if figures.failed:
        raise HeadraceError("bench_failed", f"{figures.failed} uploads were not ingested")
    per_s = rate(len(figures.answers_s), figures.seconds)
    plain = f"the store's plain PUTs, {PUTS_AT_ONCE} at a time ({peer:.0f}/s)"
    times_ms = sorted(answer_s * 1000 for answer_s in figures.answers_s)
    return [
        Figure(
            "gateway_per_s",
            f"uploads of 200 KB, {CLIENTS} clients, durable",
            per_s,
            "/s",
            plain,
            of_peer(per_s, peer),
            TARGETS["gateway"],
        ),
        Figure("gateway_ms_p50", "from sending to `ingested`, p50", percentile(times_ms, 0.5) or 0.0, "ms"),
        Figure("gateway_ms_p99", "from sending to `ingested`, p99", percentile(times_ms, 0.99) or 0.0, "ms"),
    ]


CASES: dict[str, Callable[[Bench, BenchOptions, Say], list[Figure]]] = {
    "frames": _frames,
    "ldos": _ldos,
    "latency": _latency,
    "gateway": _gateway,
}


def _put_peer(bench: Bench, count: int, say: Say) -> float:
    say("frames: writing the same bodies directly to the store")
    return puts_per_s(bench.settings, min(count, 1000))


def _drained(bench: Bench, kind: Kind, count: int, say: Say) -> Drained:
    say(f"{kind}s: {count} published; starting a worker and the relay")
    drained = drain(bench, kind, count)
    took_s = max(drained.committed.last_s, drained.committed.announced_last_s) - drained.committed.first_s
    say(f"{kind}s: {drained.committed.rows} recorded, {drained.committed.announced} announced in {took_s:.1f} s")
    return drained


@contextmanager
def _bench(store: Store, say: Say) -> Iterator[Bench]:
    with (
        tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder,
        temporary_stack(store, services=(), progress=say) as info,
    ):
        settings = settings_of_stack(info.env())
        initialize(settings)
        yield Bench(info, settings, Path(folder))


def puts_per_s(settings: Settings, count: int) -> float:
    """Write bodies of 200 KB to the store, 16 at a time; returns the writes per second."""
    return asyncio.run(_puts_per_s(settings, count))


async def _puts_per_s(settings: Settings, count: int) -> float:
    blobs = Blobs.from_settings(settings)
    body = Random(1).randbytes(FRAME_BYTES)  # noqa: S311 - incompressible, not secret
    left = numbers()
    prefix = f"bench/{time.time_ns()}"

    async def put() -> None:
        while (number := next(left)) < count:
            await blobs.put(f"{prefix}/{number:08d}", body)

    began = time.monotonic()
    await asyncio.gather(*(put() for _ in range(PUTS_AT_ONCE)))
    return rate(count, time.monotonic() - began)


def reads_per_s(settings: Settings, topic: str, count: int) -> float:
    """Read the last `count` messages of a topic with librdkafka and discard them; returns the messages per second."""
    with reading_consumer(settings, "headrace-bench", fetch_queue_backoff_ms=5) as consumer:
        bounds = offset_bounds(consumer, partitions_of(consumer, topic))
        assignment = []
        left = 0
        for key, (low, high) in bounds.items():
            start = max(low, high - count // len(bounds))
            assignment.append(TopicPartition(*key, start))
            left += high - start
        # Without a TopicReader, whose work for each message would count as librdkafka's.
        consumer.assign(assignment)
        began = ended = 0.0
        read = 0
        while read < left:
            messages = [message for message in consumer.consume(_READ_AT_ONCE, _POLL_S) if message.error() is None]
            if messages and not began:  # excludes the time to connect
                began, left = time.monotonic(), left - len(messages)
            elif messages:
                read, ended = read + len(messages), time.monotonic()
        return rate(read, ended - began)


def live(bench: Bench, seconds: float) -> list[float]:
    """Publish frames at FRAMES_PER_S through a worker and the relay; returns their latencies in milliseconds."""
    env = bench.info.env()
    with ExitStack() as stack:
        processes = [
            stack.enter_context(running(("relay",), env, bench.folder)),
            stack.enter_context(running(("worker", "--kinds", "frames,clips"), env, bench.folder)),
        ]
        listener = stack.enter_context(AnnouncementListener(bench.settings))
        publisher = stack.enter_context(Publisher.from_settings(bench.settings))
        _publish(publisher, listener, Acknowledgements(), _WARM_UP_FRAMES, processes)
        acknowledgements = Acknowledgements()
        _publish(publisher, listener, acknowledgements, round(seconds * FRAMES_PER_S), processes)
        return latencies_ms(acknowledgements.good, listener.heard)


def _publish(
    publisher: Publisher,
    listener: AnnouncementListener,
    acknowledgements: Acknowledgements,
    count: int,
    processes: list[MeasuredProcess],
) -> None:
    image = bodies.small_jpeg()
    began_us = unix_us()
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number / FRAMES_PER_S - time.monotonic()))
        frame = bodies.frame(number, captured_at_us=unix_us(), random=Random(began_us + number), image=image)  # noqa: S311
        acknowledgements.expect(publisher.publish(frame))
    acknowledgements.settled(_ARRIVE_S_MAX)
    expected = frozenset(acknowledgements.good.values())
    deadline = time.monotonic() + _ARRIVE_S_MAX
    while left := sum(1 for record in expected if record not in listener.heard.announced_at_ms):
        listener.check()
        for process in processes:
            process.sample(1)
        if time.monotonic() > deadline:
            raise HeadraceError("bench_late", f"{left} of {count} frames are not announced after {_ARRIVE_S_MAX:.0f} s")
        time.sleep(_POLL_S)
