"""Live cases: frames at a steady rate, and a worker that has nothing to do.

Latency is measured from the arrival of a message in Kafka to its announcement, by Kafka's timestamps.
"""

import time
from random import Random

from headrace.bench import bodies
from headrace.bench.processes import Bench, MeasuredProcess, running
from headrace.demo.acknowledgements import Acknowledgements
from headrace.demo.listener import AnnouncementListener
from headrace.demo.reconcile import latencies_ms
from headrace.producers import Publisher
from headrace.producers.source import unix_us
from headrace.runtime.errors import HeadraceError

FRAMES_PER_S = 50
_WARM_UP_FRAMES = 100  # warm-up: connections and imports
_ARRIVE_S_MAX = 60.0
_POLL_S = 0.02
_SETTLE_S = 3.0


def live(bench: Bench, seconds: float) -> list[float]:
    """Publish frames at FRAMES_PER_S through a worker and the relay; returns their latencies in milliseconds."""
    with (
        running(bench, "relay") as relay,
        running(bench, "worker", "--kinds", "frames,clips") as worker,
        AnnouncementListener(bench.settings) as listener,
        Publisher.from_settings(bench.settings) as publisher,
    ):
        processes = [relay, worker]
        _publish(publisher, listener, Acknowledgements(), _WARM_UP_FRAMES, processes)
        acknowledgements = Acknowledgements()
        _publish(publisher, listener, acknowledgements, round(seconds * FRAMES_PER_S), processes)
        return latencies_ms(acknowledgements.good, listener.heard)


def idle_share(bench: Bench, seconds: float) -> float:
    """Return the share of a core that a worker without messages uses."""
    with running(bench, "relay") as relay, running(bench, "worker", "--kinds", "frames,clips") as worker:
        with AnnouncementListener(bench.settings) as listener, Publisher.from_settings(bench.settings) as publisher:
            _publish(publisher, listener, Acknowledgements(), _WARM_UP_FRAMES, [relay, worker])
        time.sleep(_SETTLE_S)
        began, began_cpu_s = time.monotonic(), worker.cpu_s
        time.sleep(seconds)
        return (worker.cpu_s - began_cpu_s) / (time.monotonic() - began)


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
