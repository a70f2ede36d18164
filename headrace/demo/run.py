"""The demonstration from beginning to end."""

import secrets
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from headrace.demo.line import Line
from headrace.demo.render import PICTURES_PER_S, draw, frames_in
from headrace.demo.report import Circumstances, DemoReport, report_of
from headrace.demo.scenes import SITES, Scene, Stopwatch, perform
from headrace.native import SERVICES, StackInfo, StackOptions, Store, temporary_stack, up
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
