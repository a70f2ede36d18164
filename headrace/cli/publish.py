"""`headrace publish`: publish files, folders, videos, codes and JSON lines from this machine."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import Json
from headrace.cli.output import SummaryGroup, print_json, say, stderr_console
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.limits import LDO_BODY_BYTES_MAX
from headrace.schemas.reject import RejectedError

if TYPE_CHECKING:
    from headrace.producers import Camera, Publisher, SpooledPublisher
    from headrace.producers.delivery import DeliveryCounts, DeliveryStats, EventPublisher
    from headrace.runtime.settings import Settings

START_WAIT_S_MAX = 10.0  # interactive use; services use HEADRACE_START_WAIT_S_MAX
LINE_BYTES_MAX = 2 * LDO_BODY_BYTES_MAX


def _named(option: typer.CallbackParam, value: str) -> str:
    from headrace.schemas.validate import check_name

    try:
        check_name(value, option.name or "")
    except RejectedError as error:
        raise typer.BadParameter(error.reason) from None
    return value


SourceId = Annotated[str, typer.Option(help="Source id: the camera or device.", callback=_named)]
SiteName = Annotated[str, typer.Option(help="Site of the source, for example a factory.", callback=_named)]

SpoolDir = Annotated[
    Path | None,
    typer.Option("--spool", file_okay=False, help="Spool events in this folder until Kafka acknowledges them."),
]

publish_app = typer.Typer(
    cls=SummaryGroup, help="Publish frames, clips, component scans and labelled data objects.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(publish_app, name="publish")


@publish_app.command()
@needs("camera")
def frame(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Images, folders of images, videos, or rtsp://… streams.", show_default=False),
    ] = None,
    *,
    source: SourceId,
    site: SiteName = "default",
    camera: Annotated[int | None, typer.Option(min=0, help="Index of a camera on this machine.")] = None,
    fps: Annotated[float | None, typer.Option(min=0.001, help="Frames per second. [default: all]")] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality of encoded frames.")] = 90,
    codes: Annotated[bool, typer.Option(help="Detect QR codes in the frames and publish them as CIDs.")] = True,
    clip_on_code: Annotated[bool, typer.Option(help="Publish a clip of 5 s around each new code.")] = False,
    realtime: Annotated[bool, typer.Option(help="Publish files at their frame rate, with the current time.")] = False,
    frames_max: Annotated[int | None, typer.Option(min=1, help="Maximum frames of each input.")] = None,
    spool: SpoolDir = None,
    as_json: Json = False,
) -> None:
    """Publish images, or the frames of videos or a camera, and the QR codes in them."""
    from headrace.producers import Camera
    from headrace.producers.rtsp_frames import is_stream, shown

    feeds: list[int | str] = [*(paths or []), *([] if camera is None else [camera])]
    if not feeds:
        raise typer.BadParameter("pass files, folders, videos, rtsp://… or --camera")
    for path in paths or []:
        if not is_stream(path) and not Path(path).exists():
            raise typer.BadParameter(f"{path} does not exist", param_hint="PATHS")
    with _publishing(spool, as_json=as_json) as (publisher, delivery_stats, advance):
        for feed in feeds:
            source_camera = Camera(
                publisher,
                feed,
                source,
                site,
                fps=fps,
                jpeg_quality=quality,
                find_codes=codes,
                clip_on_code=clip_on_code,
                realtime=realtime,
                tally=delivery_stats,
                on_published=lambda *_: advance(),
            )
            with _stopped_by_ctrl_c(source_camera):
                what = shown(str(feed)) if is_stream(feed) else str(feed)
                _attempt(delivery_stats, what, partial(source_camera.run, frames_max))


@publish_app.command()
def clip(
    paths: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="MP4, QuickTime or 3GP files.")],
    *,
    source: SourceId,
    site: SiteName = "default",
    about: Annotated[str | None, typer.Option(help="LDO id or code that the clips belong to.")] = None,
    spool: SpoolDir = None,
    as_json: Json = False,
) -> None:
    """Publish MP4 clips; the capture time is the modification time of the file."""
    from headrace.producers import describe_clip
    from headrace.producers.source import Source
    from headrace.producers.video_frames import written_at_us
    from headrace.schemas.events import TimeFrom

    origins = Source(source, site)
    with _publishing(spool, as_json=as_json) as (publisher, delivery_stats, advance):

        def hand_over(path: Path) -> None:
            origin = origins.origin(written_at_us(path, origins.clock_us))
            event = describe_clip(path, origin, about=about, attributes={"captured_at_from": TimeFrom.FILE})
            delivery_stats.add(event, publisher.publish(event, body_path=path))

        for path in paths:
            _attempt(delivery_stats, str(path), partial(hand_over, path))
            advance()


@publish_app.command()
def cid(
    codes: Annotated[list[str], typer.Argument(help="Codes; '-' reads them from standard input, one per line.")],
    *,
    source: SourceId,
    site: SiteName = "default",
    symbology: Annotated[str, typer.Option(help="Symbology of the codes.")] = "QRCode",
    spool: SpoolDir = None,
    as_json: Json = False,
) -> None:
    """Publish component scans with the current time."""
    from headrace.producers import Device

    with _publishing(spool, as_json=as_json) as (publisher, delivery_stats, advance):
        device = Device(publisher, source, site, on_published=delivery_stats.add)
        for argument in codes:
            for code in _text_lines(sys.stdin.buffer) if argument == "-" else [argument]:
                _attempt(delivery_stats, f"code {code!r}", partial(device.scan, code, symbology))
                advance()


@publish_app.command()
def ldo(
    paths: Annotated[list[Path], typer.Argument(help="Files of JSON lines; '-' is standard input.")],
    *,
    source: SourceId,
    site: SiteName = "default",
    spool: SpoolDir = None,
    as_json: Json = False,
) -> None:
    """Publish labelled data objects: one JSON object per line with ldo_id, sensor_data, context and prediction.

    Optional fields: captured_at_us (microseconds since 1970) and clip (an MP4 file, relative to the input folder).
    """
    from headrace.producers import Device
    from headrace.producers.bodies import parse_ldo_line

    with _publishing(spool, as_json=as_json) as (publisher, delivery_stats, advance):
        device = Device(publisher, source, site, on_published=delivery_stats.add)

        def hand_over(line: bytes, folder: Path) -> None:
            ldo_line = parse_ldo_line(line, folder)
            device.report_json(
                ldo_line.ldo_id, ldo_line.body, clip=ldo_line.clip, captured_at_us=ldo_line.captured_at_us
            )

        def hand_over_all(path: Path) -> None:
            with _opened(path) as lines:
                for number, line in enumerate(_lines(lines), 1):
                    _attempt(delivery_stats, f"{path}, line {number}", partial(hand_over, line, path.parent))
                    advance()

        for path in paths:
            _attempt(delivery_stats, str(path), partial(hand_over_all, path))


@contextmanager
def _publishing(
    spool: Path | None, *, as_json: bool
) -> "Iterator[tuple[EventPublisher, DeliveryStats, Callable[[], None]]]":
    """Yield a publisher, its statistics and the progress update; then wait for all deliveries and exit."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    from headrace.producers.delivery import DeliveryStats

    settings = client_settings()
    delivery_stats = DeliveryStats()
    columns = (
        TextColumn("{task.fields[acknowledged]} acknowledged"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    console = stderr_console()
    with (
        _publisher(settings, spool) as publisher,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("", total=None, acknowledged=0)

        def advance() -> None:
            counts = delivery_stats.counts()
            progress.update(task, completed=counts.bytes, acknowledged=counts.acknowledged)

        yield publisher, delivery_stats, advance
    counts = delivery_stats.counts()
    _sum_up(counts, spool, _earlier_sent(publisher, counts), as_json=as_json)


def _earlier_sent(publisher: "Publisher | SpooledPublisher", counts: "DeliveryCounts") -> int:
    """Return how many events of earlier runs left the spool: they leave it in their order, before those of this run."""
    from headrace.producers import SpooledPublisher

    if not isinstance(publisher, SpooledPublisher):
        return 0
    return publisher.earlier - max(0, publisher.waiting - counts.spooled)


def _publisher(settings: "Settings", spool: Path | None) -> "Publisher | SpooledPublisher":
    from headrace.producers import Publisher, SpooledPublisher

    if spool is not None:
        return SpooledPublisher.from_settings(settings, spool)
    return Publisher.from_settings(settings, start_wait_s_max=min(START_WAIT_S_MAX, settings.start_wait_s_max))


def _sum_up(counts: "DeliveryCounts", spool: Path | None, earlier_sent: int, *, as_json: bool) -> None:
    for fault in counts.faults:
        say(f"failed: {fault}")
    if earlier_sent:
        say(f"sent {earlier_sent} events that earlier runs had spooled")
    kinds = ", ".join(f"{number} {kind}s" for kind, number in counts.by_kind.items() if number) or "nothing"
    spooled = f", {counts.spooled} spooled" if counts.spooled else ""
    say(
        f"published {kinds} ({counts.bytes} bytes): {counts.acknowledged} acknowledged{spooled}, {counts.failed} failed"
    )
    if counts.spooled:
        say(f"spooled events are safe in {spool}; the next `headrace publish` with --spool {spool} sends them")
    if as_json:
        print_json(
            {
                "published": counts.published,
                "acknowledged": counts.acknowledged,
                "spooled": counts.spooled,
                "earlier_sent": earlier_sent,
                "failed": counts.failed,
                "bytes": counts.bytes,
                "by_kind": {kind.value: number for kind, number in counts.by_kind.items()},
                "faults": counts.faults,
            }
        )
    raise typer.Exit(Exit.FAILED if counts.failed else Exit.OK)


def _attempt(delivery_stats: "DeliveryStats", what: str, hand_over: Callable[[], object]) -> None:
    """Publish one item; a failure is reported at the end and does not stop the others."""
    try:
        hand_over()
    except RejectedError as error:
        delivery_stats.fail(f"{what}: {error.reason}")
    except HeadraceError as error:
        delivery_stats.fail(f"{what}: {error}")
    except OSError as error:
        delivery_stats.fail(f"{what}: {error.strerror}")


@contextmanager
def _stopped_by_ctrl_c(camera: "Camera") -> Iterator[None]:
    """Stop the camera at the first Ctrl-C; the second one ends the command."""
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        camera.stop()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield sys.stdin.buffer
    else:
        with path.open("rb") as file:
            yield file


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines that are not blank; raises HeadraceError for a line over LINE_BYTES_MAX."""
    while line := stream.readline(LINE_BYTES_MAX + 1):
        if len(line) > LINE_BYTES_MAX:
            raise HeadraceError(
                "line_too_long",
                f"a line is longer than {LINE_BYTES_MAX} bytes",
                hint="check that the input is JSON lines",
                exit_code=Exit.USAGE,
            )
        if stripped := line.strip():
            yield stripped


def _text_lines(stream: BinaryIO) -> Iterator[str]:
    for line in _lines(stream):
        yield line.decode("utf-8", "surrogateescape")
