"""Simulated cameras and devices, one thread each, that publish through the public producer library."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from headrace.demo.acknowledgements import Acknowledgements
from headrace.demo.line import PICTURES_PER_S, Line, LinePart, clip_of, readings_of
from headrace.producers import Camera, Delivery, Device, Publisher
from headrace.producers.source import unix_us
from headrace.schemas.events import Frame, InputEvent

TWICE_SHARE = 0.2  # of everything is sent twice
REPORTS_PER_S = 6.0  # of each device
CLIP_EVERY_REPORTS = 30  # of a device that has clips: one in 5 seconds


@dataclass(frozen=True, slots=True)
class PublishedCounts:
    """Numbers of frames and LDOs, each counted once however often it is sent."""

    frames: int = 0
    reports: int = 0


class Sources:
    """All cameras and devices of a demo; faults in their threads go to the acknowledgements."""

    def __init__(self, publisher: Publisher, acknowledgements: Acknowledgements, *, seed: int) -> None:
        """Prepare; nothing is published before `start`."""
        self.planned = PublishedCounts()
        self.done = PublishedCounts()
        self.sample: Frame | None = None
        self._publisher = publisher
        self._acknowledgements = acknowledgements
        self._seed = seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._ends = ExitStack()
        self._lock = threading.Lock()

    def add_camera(self, media: Path, source_id: str, site: str, *, frames: int, fps: float | None = None) -> None:
        """Add a camera that publishes a video or folder of `frames` frames in real time."""
        self.planned = PublishedCounts(self.planned.frames + frames, self.planned.reports)
        random = self._random(source_id, site)

        def on_published(event: InputEvent, delivery: Delivery) -> None:
            self._acknowledgements.expect(delivery)
            if isinstance(event, Frame):
                self._count(frames=1)
                self.sample = self.sample or event
            with self._lock:  # clips and frames of a camera come from different threads
                twice = random.random() < TWICE_SHARE
            if twice:
                self._acknowledgements.expect(self._publisher.publish(event))

        camera = Camera(self._publisher, media, source_id, site, fps=fps, realtime=True, on_published=on_published)
        self._ends.callback(camera.stop)

        def capture() -> None:
            for fault in camera.run().faults:
                self._acknowledgements.fail(f"{source_id} at {site}: {fault}")

        self._add(capture, f"{source_id} at {site}")

    def add_device(
        self, line: Line, pictures: Sequence[Path], source_id: str, site: str, *, clips: bool = False
    ) -> None:
        """Add a device that reports readings for the parts of a line, some with a clip, until the line ends."""
        random = self._random(source_id, site)
        device = Device(self._publisher, source_id, site)
        reports = round(len(pictures) / PICTURES_PER_S * REPORTS_PER_S)
        self.planned = PublishedCounts(self.planned.frames, self.planned.reports + reports)

        def work() -> None:
            began = time.monotonic()
            for number in range(reports):
                due = began + (number + random.uniform(0.0, 0.5)) / REPORTS_PER_S
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                index = round(number * PICTURES_PER_S / REPORTS_PER_S)
                has_clip = clips and number % CLIP_EVERY_REPORTS == CLIP_EVERY_REPORTS - 1
                clip = clip_of(pictures, index) if has_clip else None
                self._report(
                    device, line.part_at(index), random, ldo_id=f"{source_id}-{self._seed:08x}-{number:05d}", clip=clip
                )

        self._add(work, f"{source_id} at {site}")

    def start(self) -> None:
        """Start publishing."""
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> bool:
        """Whether any source still publishes."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Stop all sources and wait for them; may be repeated."""
        self._stop.set()
        self._ends.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _report(self, device: Device, part: LinePart, random: Random, *, ldo_id: str, clip: bytes | None) -> None:
        readings = readings_of(part, random)
        captured_at_us = unix_us()
        for _ in range(2 if random.random() < TWICE_SHARE else 1):
            reported = device.report(
                ldo_id,
                sensor_data=readings.sensor_data,
                context=readings.context,
                prediction=readings.prediction,
                clip=clip,
                captured_at_us=captured_at_us,
            )
            self._acknowledgements.expect(reported.ldo)
            if reported.clip is not None:
                self._acknowledgements.expect(reported.clip)
        self._count(reports=1)

    def _count(self, *, frames: int = 0, reports: int = 0) -> None:
        with self._lock:
            self.done = PublishedCounts(self.done.frames + frames, self.done.reports + reports)

    def _add(self, work: Callable[[], None], name: str) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - any error of a source must appear in the report
                self._acknowledgements.fail(f"{name} ended: {type(error).__name__}: {error}")

        self._threads.append(threading.Thread(target=guarded, name=name, daemon=True))

    def _random(self, source_id: str, site: str) -> Random:
        return Random(f"{self._seed} {site} {source_id}")  # noqa: S311 - a demonstration, not a secret
