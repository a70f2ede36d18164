"""Cameras and devices, each in a thread of its own, publishing through the library that everybody uses."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from headrace.demo.ledger import AckLedger
from headrace.demo.line import PICTURES_PER_S, Line, LinePart, clip_of, readings_of
from headrace.producers import Camera, Delivery, Device, Publisher
from headrace.producers.source import unix_us
from headrace.schemas.events import Frame, InputEvent

TWICE_SHARE = 0.2  # of everything is sent twice
REPORTS_PER_S = 6.0  # of each device
CLIP_EVERY_REPORTS = 30  # of a device that has clips: one in 5 seconds


@dataclass(frozen=True, slots=True)
class Done:
    """How many frames and LDOs there are, each counted once, however often it is sent."""

    frames: int = 0
    reports: int = 0


class Sources:
    """Everything that publishes; `stop` ends it. What goes wrong in a thread is in the ledger."""

    def __init__(self, publisher: Publisher, ledger: AckLedger, *, seed: int) -> None:
        """Prepare; nothing is published yet."""
        self.planned = Done()
        self.done = Done()
        self.sample: Frame | None = None
        self._publisher = publisher
        self._ledger = ledger
        self._seed = seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._ends = ExitStack()
        self._lock = threading.Lock()

    def add_camera(self, film: Path, source_id: str, site: str, *, frames: int, fps: float | None = None) -> None:
        """Let a camera watch a film of so many frames, in its own time."""
        self.planned = Done(self.planned.frames + frames, self.planned.reports)
        random = self._random(source_id, site)

        def on_published(event: InputEvent, delivery: Delivery) -> None:
            self._ledger.expect(delivery)
            if isinstance(event, Frame):
                self._count(frames=1)
                self.sample = self.sample or event
            with self._lock:  # the camera's clips come from another thread than its frames
                twice = random.random() < TWICE_SHARE
            if twice:
                self._ledger.expect(self._publisher.publish(event))

        camera = Camera(self._publisher, film, source_id, site, fps=fps, realtime=True, on_published=on_published)
        self._ends.callback(camera.stop)

        def watch() -> None:
            for fault in camera.run().faults:
                self._ledger.fail(f"{source_id} at {site}: {fault}")

        self._add(watch, f"{source_id} at {site}")

    def add_device(
        self, line: Line, pictures: Sequence[Path], source_id: str, site: str, *, clips: bool = False
    ) -> None:
        """Let a device report what it measures on the parts of a line, some of it with a clip, until the line ends."""
        random = self._random(source_id, site)
        device = Device(self._publisher, source_id, site)
        reports = round(len(pictures) / PICTURES_PER_S * REPORTS_PER_S)
        self.planned = Done(self.planned.frames, self.planned.reports + reports)

        def work() -> None:
            began = time.monotonic()
            for number in range(reports):
                due = began + (number + random.uniform(0.0, 0.5)) / REPORTS_PER_S
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                at = round(number * PICTURES_PER_S / REPORTS_PER_S)
                has_clip = clips and number % CLIP_EVERY_REPORTS == CLIP_EVERY_REPORTS - 1
                clip = clip_of(pictures, at) if has_clip else None
                self._report(
                    device, line.part_at(at), random, ldo_id=f"{source_id}-{self._seed:08x}-{number:05d}", clip=clip
                )

        self._add(work, f"{source_id} at {site}")

    def start(self) -> None:
        """Begin to publish."""
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> bool:
        """Whether one of them still publishes."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """End them all and wait for it; may be repeated."""
        self._stop.set()
        self._ends.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _report(self, device: Device, part: LinePart, random: Random, *, ldo_id: str, clip: bytes | None) -> None:
        said = readings_of(part, random)
        captured_at_us = unix_us()
        for _ in range(2 if random.random() < TWICE_SHARE else 1):
            told = device.report(
                ldo_id,
                sensor_data=said.sensor_data,
                context=said.context,
                prediction=said.prediction,
                clip=clip,
                captured_at_us=captured_at_us,
            )
            self._ledger.expect(told.ldo)
            if told.clip is not None:
                self._ledger.expect(told.clip)
        self._count(reports=1)

    def _count(self, *, frames: int = 0, reports: int = 0) -> None:
        with self._lock:
            self.done = Done(self.done.frames + frames, self.done.reports + reports)

    def _add(self, work: Callable[[], None], name: str) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whatever ends a source early must show in the report
                self._ledger.fail(f"{name} ended: {type(error).__name__}: {error}")

        self._threads.append(threading.Thread(target=guarded, name=name, daemon=True))

    def _random(self, source_id: str, site: str) -> Random:
        return Random(f"{self._seed} {site} {source_id}")  # noqa: S311 - a demonstration, not a secret
