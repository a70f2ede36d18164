"""Run the demo: start a stack, publish, wait until everything has arrived, and reconcile."""

import asyncio
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rich.console import Console

from headrace.demo.acknowledgements import Acknowledgements
from headrace.demo.fault_injector import FaultInjector
from headrace.demo.line import PICTURES_PER_S, Line, draw, frames_in
from headrace.demo.listener import AnnouncementListener, Awaited, awaited, bars, wait_until_arrived
from headrace.demo.reconcile import DemoOutcome, SourceCounts, catalog_now, opened, reconcile
from headrace.demo.report import Circumstances, DemoReport, Findings, report_of
from headrace.demo.sources import Sources
from headrace.native import SERVICES, StackInfo, StackOptions, Store, temporary_stack, up
from headrace.native.config import read_config
from headrace.native.layout import StateDir
from headrace.producers import Publisher
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.runtime.stack_settings import settings_of_stack

SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The options of a demo; without a video it publishes a synthetic line, with `keep` the stack keeps running."""

    store: Store
    video: Path | None = None
    seconds: float | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the cameras capture: a video, or the line of each site with its rendered frames.

    `seconds_max` stops the sources early; a video has `video_frames` frames.
    """

    seed: int
    seconds_max: float | None = None
    video: Path | None = None
    video_frames: int = 0
    lines: dict[str, tuple[Line, list[Path]]] = field(default_factory=dict)


class Stopwatch:
    """Measures the seconds of each phase."""

    def __init__(self) -> None:
        """Start the first phase."""
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def end(self, phase: str) -> None:
        """End a phase and start the next one."""
        now = time.monotonic()
        self.seconds[phase] = now - self._began
        self._began = now


def run(options: DemoOptions, state_dir: Path, console: Console) -> DemoReport:
    """Start the service, publish, wait, and compare what arrived with what was published.

    Without `keep`, all processes and files are removed even after an error; with it, the stack of `state_dir` keeps
    running. Progress is printed on `console`.

    Raises:
        HeadraceError: a server does not start or became unreachable, or the video is unusable.
    """
    stopwatch = Stopwatch()
    video_frames = frames_in(options.video) if options.video else 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-demo-")))
        drawing = stack.enter_context(ThreadPoolExecutor(1)).submit(_scene, options, video_frames, folder)
        info = stack.enter_context(_service(options, state_dir, console))
        scene = drawing.result()
        stopwatch.end("start")
        findings = perform(scene, settings_of_stack(info.env()), stopwatch, console)
    stopwatch.end("stop")
    source = options.video.name if options.video else "a synthetic line"
    return report_of(findings, Circumstances(store=options.store, source=source, seconds=stopwatch.seconds))


def _scene(options: DemoOptions, video_frames: int, folder: Path) -> Scene:
    seed = secrets.randbits(32)  # differs between runs, so that records of an earlier demo are not repeated
    if options.video is not None:
        return Scene(seed=seed, seconds_max=options.seconds, video=options.video, video_frames=video_frames)
    seconds = options.seconds or SECONDS
    lines = {site: Line(series, f"{site} {seed:08x}", seed=seed) for site, series in SITES.items()}
    pictures = round(seconds * PICTURES_PER_S)
    return Scene(
        seed=seed, lines={site: (line, draw(line, folder / site, pictures=pictures)) for site, line in lines.items()}
    )


@contextmanager
def _service(options: DemoOptions, state_dir: Path, console: Console) -> Iterator[StackInfo]:
    say = _printer(console)
    if options.keep:
        _require_no_stack(state_dir)
        yield up(StackOptions(state_dir, options.store), say)
        return
    # The demo uses neither HTTP nor camera streams, and nothing in it is old.
    services = tuple(service for service in SERVICES if service.name not in {"gateway", "capture", "maintenance"})
    with temporary_stack(options.store, services=services, progress=say) as info:
        yield info


def _require_no_stack(state_dir: Path) -> None:
    """Refuse a state directory with a stack in it: the demo's records would be among its own.

    Raises:
        HeadraceError: there is one.
    """
    state = StateDir.at(state_dir)
    if read_config(state) is not None:
        raise HeadraceError(
            "stack_exists",
            f"{state.root} holds a stack, and the demo would publish into it",
            hint="leave out --keep, or choose another directory: `HEADRACE_STATE_DIR=demo headrace demo --keep`",
            exit_code=Exit.USAGE,
        )


def _printer(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, markup=False)


SITES = {"plant-north": "N", "plant-south": "S"}
DEVICES = ("device-1", "device-2")  # of each site
_SETTLE_S_MAX = 150.0
_POLL_S = 0.1


def perform(scene: Scene, settings: Settings, stopwatch: Stopwatch, console: Console) -> Findings:
    """Publish the scene, wait until it has arrived, and count; progress is printed on `console`.

    Raises:
        HeadraceError: a server became unreachable.
    """
    since = asyncio.run(catalog_now(settings))
    acknowledgements = Acknowledgements()
    with AnnouncementListener(settings) as listener, bars(console, acknowledgements, listener.heard) as shown:
        sources = _publish(scene, settings, acknowledgements, lambda: _both(listener.check, shown.show))
        stopwatch.end("publish")
        expected = asyncio.run(_expected(settings, acknowledgements, since))
        wait_until_arrived(expected, listener.heard, lambda: _both(listener.check, lambda: shown.show(expected)))
        stopwatch.end("arrive")
    outcome = DemoOutcome(acknowledgements, listener.heard, expected, sources)
    findings = asyncio.run(_reconcile(settings, since, outcome))
    stopwatch.end("verify")
    return findings


def _publish(
    scene: Scene, settings: Settings, acknowledgements: Acknowledgements, check: Callable[[], None]
) -> SourceCounts:
    """Publish until the scene ends; `check` is called repeatedly and may raise."""
    with Publisher.from_settings(settings) as publisher:
        sources = _sources(scene, publisher, acknowledgements)
        fault_injector = FaultInjector(settings, acknowledgements, sources, site=next(iter(SITES)), seed=scene.seed)
        ends_at = time.monotonic() + scene.seconds_max if scene.seconds_max else None
        sources.start()
        fault_injector.start()
        try:
            while sources.running and (ends_at is None or time.monotonic() < ends_at):
                time.sleep(_POLL_S)
                check()
        finally:
            sources.stop()
            fault_injector.stop()
        acknowledgements.settled(_SETTLE_S_MAX)
    return SourceCounts(None if scene.seconds_max else sources.planned, sources.done)


def _sources(scene: Scene, publisher: Publisher, acknowledgements: Acknowledgements) -> Sources:
    sources = Sources(publisher, acknowledgements, seed=scene.seed)
    if scene.video is not None:
        sources.add_camera(scene.video, "camera-1", next(iter(SITES)), frames=scene.video_frames)
    for site, (line, pictures) in scene.lines.items():
        sources.add_camera(pictures[0].parent, "camera-1", site, frames=len(pictures), fps=PICTURES_PER_S)
        for device in DEVICES:
            sources.add_device(line, pictures, device, site, clips=device == DEVICES[0])
    return sources


async def _expected(settings: Settings, acknowledgements: Acknowledgements, since: datetime) -> Awaited:
    keys = frozenset(acknowledgements.good.values())
    async with opened(settings, since) as evidence:
        stored = await evidence.records(keys)
    return awaited(acknowledgements, frozenset(record.identity for record in stored if record.was_there))


async def _reconcile(settings: Settings, since: datetime, outcome: DemoOutcome) -> Findings:
    async with opened(settings, since) as evidence:
        return await reconcile(settings, evidence, outcome)


def _both(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()
