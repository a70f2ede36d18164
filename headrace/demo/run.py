"""The demonstration from beginning to end."""

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

from headrace.demo.fault_injector import FaultInjector
from headrace.demo.ledger import AckLedger
from headrace.demo.line import PICTURES_PER_S, Line, draw, frames_in
from headrace.demo.listener import AnnouncementListener, Awaited, Heard, awaited, bars, wait_until_arrived
from headrace.demo.reconcile import Played, catalog_now, opened, weigh
from headrace.demo.report import Circumstances, DemoReport, Findings, report_of
from headrace.demo.sources import Sources
from headrace.native import SERVICES, StackInfo, StackOptions, Store, temporary_stack, up
from headrace.producers import Publisher
from headrace.runtime.settings import Settings, load_settings

SECONDS = 15.0
_PREFIX = "HEADRACE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What to show: a video or the synthetic line, for how long, on which store, and whether to leave it running."""

    store: Store
    video: Path | None = None
    seconds: float | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the cameras watch: a video, or each site's line with its pictures.

    `seconds_max` ends it before its own end, which is `video_frames` for a video.
    """

    seed: int
    seconds_max: float | None = None
    video: Path | None = None
    video_frames: int = 0
    lines: dict[str, tuple[Line, list[Path]]] = field(default_factory=dict)


class Stopwatch:
    """Notes how long each phase took, in seconds."""

    def __init__(self) -> None:
        """Begin now."""
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def ends(self, phase: str) -> None:
        """Note that a phase ended, and the next one begins."""
        now = time.monotonic()
        self.seconds[phase] = now - self._began
        self._began = now


def run(options: DemoOptions, state_dir: Path, console: Console) -> DemoReport:
    """Start the service, publish, wait, and hold what arrived against what was sent.

    Without `keep` nothing is left running, or lying about, whatever happens; with it the stack of `state_dir` goes on.
    `console` is where progress goes.

    Raises:
        HeadraceError: a server cannot be had or went away, or the video is of no use.
    """
    watch = Stopwatch()
    video_frames = frames_in(options.video) if options.video else 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-demo-")))
        drawing = stack.enter_context(ThreadPoolExecutor(1)).submit(_scene, options, video_frames, folder)
        info = stack.enter_context(_service(options, state_dir, console))
        scene = drawing.result()
        watch.ends("start")
        findings = perform(scene, _settings(info), watch, console)
    watch.ends("stop")
    source = options.video.name if options.video else "a synthetic line"
    return report_of(findings, Circumstances(store=options.store, source=source, seconds=watch.seconds))


def _scene(options: DemoOptions, video_frames: int, folder: Path) -> Scene:
    seed = secrets.randbits(32)  # another one each time, so that what an earlier demonstration left is not repeated
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
    say = _sayer(console)
    if options.keep:
        yield up(StackOptions(state_dir, options.store), say)
        return
    # Nothing of the demonstration comes over HTTP or from a camera's stream.
    services = tuple(one for one in SERVICES if one.name not in {"gateway", "capture"})
    with temporary_stack(options.store, services=services, progress=say) as info:
        yield info


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, markup=False)


def _settings(info: StackInfo) -> Settings:
    return load_settings(**{name.removeprefix(_PREFIX).lower(): value for name, value in info.env().items()})


SITES = {"plant-north": "N", "plant-south": "S"}
DEVICES = ("device-1", "device-2")  # of each site
_SETTLE_S_MAX = 150.0
_LOOK_S = 0.1


def perform(scene: Scene, settings: Settings, watch: Stopwatch, console: Console) -> Findings:
    """Publish the scene, wait until it has arrived, and count. `console` is where progress goes.

    Raises:
        HeadraceError: a server went away.
    """
    since = asyncio.run(catalog_now(settings))
    ledger = AckLedger()
    with AnnouncementListener(settings) as listener, bars(console, ledger, listener.heard) as shown:
        played = _publish(scene, settings, ledger, lambda: _both(listener.check, shown.show))
        watch.ends("publish")
        expected = asyncio.run(_expected(settings, ledger, since))
        wait_until_arrived(expected, listener.heard, lambda: _both(listener.check, lambda: shown.show(expected)))
        watch.ends("arrive")
    findings = asyncio.run(_weighed(settings, since, ledger, listener.heard, expected=expected, played=played))
    watch.ends("verify")
    return findings


def _publish(scene: Scene, settings: Settings, ledger: AckLedger, look: Callable[[], None]) -> Played:
    """Let everything publish until the scene is over; returns what was planned and done."""
    with Publisher.from_settings(settings) as publisher:
        sources = _sources(scene, publisher, ledger)
        vandal = FaultInjector(settings, ledger, sources, site=next(iter(SITES)), seed=scene.seed)
        ends_at = time.monotonic() + scene.seconds_max if scene.seconds_max else None
        sources.start()
        vandal.start()
        try:
            while sources.running and (ends_at is None or time.monotonic() < ends_at):
                time.sleep(_LOOK_S)
                look()
        finally:
            sources.stop()
            vandal.stop()
        ledger.settled(_SETTLE_S_MAX)
    return Played(None if scene.seconds_max else sources.planned, sources.done)


def _sources(scene: Scene, publisher: Publisher, ledger: AckLedger) -> Sources:
    sources = Sources(publisher, ledger, seed=scene.seed)
    if scene.video is not None:
        sources.add_camera(scene.video, "camera-1", next(iter(SITES)), frames=scene.video_frames)
    for site, (line, pictures) in scene.lines.items():
        sources.add_camera(pictures[0].parent, "camera-1", site, frames=len(pictures), fps=PICTURES_PER_S)
        for device in DEVICES:
            sources.add_device(line, pictures, device, site, clips=device == DEVICES[0])
    return sources


async def _expected(settings: Settings, ledger: AckLedger, since: datetime) -> Awaited:
    identities = frozenset(ledger.good.values())
    async with opened(settings, since) as evidence:
        stored = await evidence.records(identities)
    return awaited(ledger, frozenset(one.identity for one in stored if one.was_there))


async def _weighed(
    settings: Settings, since: datetime, ledger: AckLedger, heard: Heard, *, expected: Awaited, played: Played
) -> Findings:
    async with opened(settings, since) as evidence:
        return await weigh(settings, evidence, ledger, heard, expected=expected, played=played)


def _both(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()
