"""Latency at a steady rate, from the arrival of a message in Kafka to its announcement, by Kafka's timestamps."""

import time
from contextlib import ExitStack
from random import Random

from headrace.bench import bodies
from headrace.bench.backlog import Bench
from headrace.bench.processes import MeasuredProcess, running
from headrace.demo.ledger import AckLedger
from headrace.demo.listener import AnnouncementListener
from headrace.demo.reconcile import latencies_ms
from headrace.producers import Publisher
from headrace.producers.source import unix_us
from headrace.runtime.errors import HeadraceError

FRAMES_PER_S = 50
_WARM_UP_FRAMES = 100  # warm-up: connections and imports
_ARRIVE_S_MAX = 60.0
_POLL_S = 0.02


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
        _publish(publisher, listener, AckLedger(), _WARM_UP_FRAMES, processes)
        ledger = AckLedger()
        _publish(publisher, listener, ledger, round(seconds * FRAMES_PER_S), processes)
        return latencies_ms(ledger.good, listener.heard)


def _publish(
    publisher: Publisher,
    listener: AnnouncementListener,
    ledger: AckLedger,
    count: int,
    processes: list[MeasuredProcess],
) -> None:
    image = bodies.small_jpeg()
    began_us = unix_us()
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number / FRAMES_PER_S - time.monotonic()))
        frame = bodies.frame(number, captured_at_us=unix_us(), random=Random(began_us + number), image=image)  # noqa: S311
        ledger.expect(publisher.publish(frame))
    ledger.settled(_ARRIVE_S_MAX)
    expected = frozenset(ledger.good.values())
    deadline = time.monotonic() + _ARRIVE_S_MAX
    while left := sum(1 for record in expected if record not in listener.heard.announced_at_ms):
        listener.check()
        for process in processes:
            process.sample(1)
        if time.monotonic() > deadline:
            raise HeadraceError("bench_late", f"{left} of {count} frames are not announced after {_ARRIVE_S_MAX:.0f} s")
        time.sleep(_POLL_S)
