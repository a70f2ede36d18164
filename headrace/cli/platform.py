"""`headrace import-platform`: import sequences of the wildfire platform into its annotation API and this service."""

from contextlib import ExitStack
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import Json
from headrace.cli.output import print_json, say, stderr_console, stdout_console
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from headrace.batch.platform.factory import ImportEndpoints
    from headrace.batch.platform.options import ImportOptions, PublishFrame
    from headrace.batch.platform.run import ImportRun
    from headrace.producers.delivery import EventPublisher
    from headrace.runtime.settings import Settings
    from headrace.schemas.events import Origin

WORKERS_MAX = 32
DETECTIONS_MAX = 10_000
DAYS_MAX = 3660
START_WAIT_S_MAX = 10.0  # interactive use


class OrderBy(StrEnum):
    """Order of detections; the limit keeps the first of them."""

    ASC = "asc"
    DESC = "desc"


class LogLevel(StrEnum):
    """The minimum level of log lines."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Transfer(StrEnum):
    """How images reach the annotation API."""

    UPLOAD = "upload"
    BUCKET_COPY = "bucket-copy"
    URL = "url"


class Clustering(StrEnum):
    """Clustering algorithm for boxes."""

    GREEDY = "greedy"
    UNION_FIND = "union-find"


Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="The first day.")]
LastDay = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="The last day. [default: today]")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(import_platform)


@needs("service")
def import_platform(
    *,
    date_from: Day,
    date_end: LastDay = None,
    url_api_platform: Annotated[
        str, typer.Option("--url-api-platform", "--alert-api-url", help="URL of the platform API.")
    ] = "https://alertapi.pyronear.org",
    url_api_annotation: Annotated[
        str, typer.Option("--url-api-annotation", "--annotation-api-url", help="URL of the annotation API.")
    ] = "http://localhost:5050",
    detections_limit: Annotated[
        int,
        typer.Option(
            "--detections-limit", "--frames-limit", min=1, max=DETECTIONS_MAX, help="Maximum detections per sequence."
        ),
    ] = 30,
    detections_order_by: Annotated[
        OrderBy, typer.Option(help="Keep the first (asc) or the last (desc) detections.")
    ] = OrderBy.ASC,
    confidence_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Drop boxes with a lower confidence.")
    ] = 0.0,
    iou_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Minimum overlap (IoU) of boxes in a cluster.")
    ] = 0.3,
    min_cluster_size: Annotated[int, typer.Option(min=1, help="Drop clusters with fewer boxes.")] = 1,
    clustering: Annotated[
        Clustering, typer.Option(help="greedy: as in the annotation API; union-find: independent of the order.")
    ] = Clustering.GREEDY,
    max_workers: Annotated[
        int, typer.Option(min=1, max=WORKERS_MAX, help="Sequences and images processed concurrently.")
    ] = 4,
    max_sequences: Annotated[int, typer.Option(min=0, help="Maximum sequences to import; 0 is no maximum.")] = 0,
    sequence_list: Annotated[
        str | None, typer.Option(help="Only these ids of sequences: separated by commas, or a file that lists them.")
    ] = None,
    image_transfer: Annotated[
        Transfer, typer.Option(help="upload, or let the newest annotation API fetch images itself.")
    ] = Transfer.UPLOAD,
    keep_annotated: Annotated[
        bool, typer.Option("--keep-annotated", help="Do not overwrite annotations that a person completed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; show the annotations that would be created.")
    ] = False,
    skip_platform_fetch: Annotated[
        bool, typer.Option("--skip-platform-fetch", help="Only annotate sequences that the annotation API already has.")
    ] = False,
    loglevel: Annotated[
        LogLevel, typer.Option(case_sensitive=False, help="Minimum level of log lines.")
    ] = LogLevel.INFO,
    as_json: Json = False,
) -> None:
    """Import the sequences of a range of days; exit 1 if any is incomplete. Run it again to resume."""
    from headrace.batch.platform.boxes import ClusterMethod, ClusterRule
    from headrace.batch.platform.factory import ImportEndpoints, load_credentials
    from headrace.batch.platform.options import ImageTransfer, ImportOptions
    from headrace.batch.platform.payloads import source_api
    from headrace.runtime.addresses import networks_of

    first, last = date_from.date(), date_end.date() if date_end else _today()
    if last < first:
        raise HeadraceError(
            "option_invalid",
            "Invalid combination of --date-from and --date-end parameters",
            hint="--date-end must not be before --date-from",
            exit_code=Exit.USAGE,
        )
    if (last - first).days >= DAYS_MAX:
        raise HeadraceError(
            "option_invalid",
            f"--date-from to --date-end spans more than {DAYS_MAX} days",
            hint="check the years, or import the range in parts",
            exit_code=Exit.USAGE,
        )
    settings = client_settings()
    endpoints = ImportEndpoints(
        platform_url=None if skip_platform_fetch else url_api_platform,
        annotation_url=url_api_annotation,
        credentials=load_credentials(platform_needed=not skip_platform_fetch),
        networks=networks_of(settings.url_networks),
    )
    rule = ClusterRule(confidence_threshold, iou_threshold, min_cluster_size, ClusterMethod(clustering.value))
    options = ImportOptions(
        first=first,
        last=last,
        source=source_api(url_api_platform),
        rule=rule,
        detections_max=detections_limit,
        newest_first=detections_order_by is OrderBy.DESC,
        dry_run=dry_run,
        keep_annotated=keep_annotated,
        workers=max_workers,
        only=_sequence_ids(sequence_list, max_sequences),
        sequences_max=max_sequences,
        transfer=ImageTransfer(image_transfer.value),
    )
    result = _run(settings, endpoints, options, loglevel)
    _report(result, options, as_json=as_json)
    if not result.statistics.complete:
        raise typer.Exit(Exit.FAILED)


def _sequence_ids(text: str | None, number_max: int) -> frozenset[int]:
    """Return the ids of a list or of the file that it names, at most `number_max` of them unless 0."""
    import re
    from pathlib import Path

    if text is None:
        return frozenset()
    try:
        path = Path(text)
        content = path.read_text() if path.is_file() else text
        numbers = [int(item) for item in re.split(r"[,\s]+", content) if item]
    except (OSError, ValueError) as error:
        raise HeadraceError(
            "option_invalid", f"invalid --sequence-list: {error}", hint="list numbers", exit_code=Exit.USAGE
        ) from None
    if not numbers:
        raise HeadraceError(
            "option_invalid", "--sequence-list is empty", hint="list numbers, or leave it out", exit_code=Exit.USAGE
        )
    return frozenset(numbers[:number_max] if number_max else numbers)


def _today() -> date:
    return datetime.now(UTC).date()


def _run(
    settings: "Settings", endpoints: "ImportEndpoints", options: "ImportOptions", loglevel: LogLevel
) -> "ImportRun":
    import asyncio

    from headrace.batch.platform.factory import open_import
    from headrace.producers import Publisher
    from headrace.runtime.logs import configure_logs
    from headrace.runtime.progress import count_bars

    async def run(bars: "_Bars", publish: "PublishFrame | None") -> "ImportRun":
        async with open_import(endpoints, options, bars, publish=publish, state_folder=settings.state_dir) as job:
            await job.run()
            return job

    console = stderr_console()
    with ExitStack() as stack:
        bars = _Bars(stack.enter_context(count_bars(console, is_shown=console.is_terminal)))
        # After the bars have started, so that log lines appear above them.
        configure_logs(settings.log_format, loglevel.value, "import-platform")
        publish = None
        if not options.dry_run and endpoints.platform_url is not None:
            wait_s = min(START_WAIT_S_MAX, settings.start_wait_s_max)
            publisher = stack.enter_context(Publisher.from_settings(settings, start_wait_s_max=wait_s))
            publish = _frame_publisher(publisher)
        try:
            return asyncio.run(run(bars, publish))
        except KeyboardInterrupt:
            say("interrupted: run the same command again to resume")
            raise


def _frame_publisher(publisher: "EventPublisher") -> "PublishFrame":
    """Return a function that publishes a frame with its attributes and returns when Kafka has acknowledged it.

    It raises RejectedError if the frame can never be ingested, and HeadraceError if Kafka does not acknowledge it.
    """
    import asyncio

    from headrace.producers import describe_frame

    async def publish(body: bytes, origin: "Origin", attributes: bytes) -> None:
        event = describe_frame(body, origin, attributes=attributes)
        # `publish` blocks while too many bytes are in flight.
        await asyncio.wrap_future(await asyncio.to_thread(publisher.publish, event))

    return publish


class _Bars:
    """Progress bars, one for each counter; shown only on a terminal."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._total: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}

    def expect(self, what: str, number: int) -> None:
        """Increase the total of a counter."""
        self._total[what] = self._total.get(what, 0) + number
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=0)
        self._progress.update(self._tasks[what], total=self._total[what])

    def advance(self, what: str) -> None:
        """Advance a counter by one."""
        self._progress.advance(self._tasks[what])


def _report(result: "ImportRun", options: "ImportOptions", *, as_json: bool) -> None:
    """Print planned annotations, failures, the result of each day, and the statistics."""
    statistics = result.statistics
    planned = sorted(result.planned, key=lambda annotation: annotation.sequence_id)
    for annotation in planned:
        boxes = ", ".join(str(len(members)) for members in annotation.clusters) or "none"
        say(f"sequence {annotation.sequence_id}: {len(annotation.clusters)} clusters planned, with boxes: {boxes}")
    for fault in statistics.faults:
        say(f"failed: {fault}")
    for note in statistics.notes:
        say(f"note: {note}")
    if statistics.boxes_dropped:
        say(f"{statistics.boxes_dropped} invalid boxes were skipped")
    for day in statistics.days:
        say(day.summary())
    if options.dry_run:
        say("dry run: nothing was written; imported counts what would have been")
    if not as_json:
        from rich.text import Text

        stdout_console().print(Text(statistics.summary()))
        return
    say(statistics.summary())
    print_json(
        {
            "total_sequences": statistics.total,
            "successful_sequences": statistics.successful,
            "failed_sequences": statistics.failed,
            "annotations_created": statistics.annotations_created,
            "annotations_new": statistics.annotations_new,
            "annotations_overwritten": statistics.annotations_overwritten,
            "annotations_planned": statistics.annotations_planned,
            "sequences_empty": statistics.sequences_empty,
            "sequences_rolled_back": statistics.sequences_rolled_back,
            "scores_refreshed": statistics.scores_refreshed,
            "alerts_parked": statistics.alerts_parked,
            "images_missing": statistics.images_missing,
            "detections_uploaded": statistics.detections_uploaded,
            "frames_published": statistics.frames_published,
            "boxes_dropped": statistics.boxes_dropped,
            "faults": statistics.faults,
            "notes": statistics.notes,
            "days": [
                {
                    "day": day.day.isoformat(),
                    "fetched": day.fetched,
                    "adds_up": day.adds_up,
                    "complete": day.complete,
                    "fault": day.fault,
                    **{outcome.value: number for outcome, number in day.outcomes.items()},
                }
                for day in statistics.days
            ],
            "would_annotate": [
                {
                    "sequence_id": annotation.sequence_id,
                    "clusters": [
                        [{"detection_id": box.detection_id, "xyxyn": box.box.xyxyn} for box in members]
                        for members in annotation.clusters
                    ],
                }
                for annotation in planned
            ],
        }
    )
