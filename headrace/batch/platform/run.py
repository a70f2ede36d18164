"""An import: day by day, sequence by sequence, each either whole or to be done again.

Of each sequence: its detections are read, each picture is published here and uploaded there unless that was done, and
the boxes become the sequence's annotation. What a killed run left half done is found by reading: the state says which
frames Kafka has acknowledged, the annotation API which detections it has.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Protocol, TypeAlias

from headrace.batch.platform.alerts import Alerts
from headrace.batch.platform.annotating import Annotations, Made
from headrace.batch.platform.api import PlatformApiError, PlatformImage
from headrace.batch.platform.clusters import Cluster, ClusteredBox, Generation, Rule, cluster
from headrace.batch.platform.day import Day, SequenceOutcome, Statistics, days_between
from headrace.batch.platform.entities import (
    AlertSequence,
    Detection,
    Listed,
    Organisation,
    PlatformCamera,
    Unread,
    UploadedDetection,
)
from headrace.batch.platform.payloads import (
    annotation_body,
    detection_form,
    frame_attributes,
    frame_origin,
    sequence_form,
)
from headrace.batch.platform.state import ImportState, sequence_mark
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.events import Origin
from headrace.schemas.media_probe import image_header
from headrace.schemas.reject import RejectCode, RejectedError

SEQUENCES = "sequences"
FRAMES = "frames"
_EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}


# Hands a picture with its origin and attributes to this service, and returns when Kafka has acknowledged it.
PublishFrame: TypeAlias = Callable[[bytes, Origin, bytes], Awaitable[None]]


class ProgressBars(Protocol):
    """What shows how far a run is."""

    def expect(self, what: str, number: int) -> None:
        """Say that so many more are to come."""

    def advance(self, what: str) -> None:
        """Say that one of them is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What to import, and how; `workers` is how many sequences, and how many pictures, are in work at a time."""

    first: date
    last: date
    source: str
    rule: Rule = field(default_factory=Rule)
    detections_max: int = 30
    newest_first: bool = False
    dry_run: bool = False
    keep_annotated: bool = False
    workers: int = 4


@dataclass(frozen=True, slots=True)
class Planned:
    """An annotation that would come; the ids are those of the API that the sequence was read from."""

    sequence_id: int
    clusters: tuple[Cluster, ...]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A sequence, with whom it belongs to."""

    sequence: AlertSequence
    camera: PlatformCamera
    organisation: Organisation
    detections: Several[Detection]


class Import:
    """One run. `alerts` is the platform; without it, what the annotation API already has is annotated again."""

    def __init__(
        self,
        options: ImportOptions,
        bars: ProgressBars,
        *,
        alerts: Alerts | None,
        annotations: Annotations | None,
        publish: PublishFrame | None,
        state: ImportState | None,
    ) -> None:
        self._options = options
        self._bars = bars
        self._alerts = alerts
        self._annotations = annotations
        self._publish_frame = publish
        self._state = state
        self._sequences_in_work = asyncio.Semaphore(options.workers)
        self._pictures_in_work = asyncio.Semaphore(options.workers)
        self.statistics = Statistics()
        self.planned: list[Planned] = []

    async def run(self) -> Statistics:
        """Import all days; what fails is counted and named, and the others go on.

        Raises:
            HeadraceError: a login was refused, or one of the services does not answer at all.
        """
        for opened in (self._alerts, self._annotations):
            if opened is not None:
                await opened.open()
        for day in days_between(self._options.first, self._options.last):
            await self._day(Day(day))
        return self.statistics

    async def _day(self, day: Day) -> None:
        self.statistics.days.append(day)
        try:
            listed = await self._listed(day.day)
        except HeadraceError as error:
            day.fault = error.what
            self._fault(f"{day.day}", error)
            return
        day.fetched = len(listed)
        self._bars.expect(SEQUENCES, len(listed))
        async with asyncio.TaskGroup() as group:
            for one in listed:
                group.create_task(self._counted(day, one))

    async def _listed(self, day: date) -> Several[AlertSequence | Unread | Listed]:
        if self._alerts is not None:
            return await self._alerts.sequences_of(day)
        assert self._annotations is not None
        begin, end = (datetime.combine(day, at, UTC) for at in (time.min, time.max))
        return await self._annotations.sequences_between(self._options.source, begin, end)

    async def _counted(self, day: Day, one: AlertSequence | Unread | Listed) -> None:
        async with self._sequences_in_work:
            try:
                outcome = await self._outcome(one)
            except (HeadraceError, RejectedError) as error:
                outcome = SequenceOutcome.FAILED
                self._fault(f"sequence {one.id}", error)
        day.outcomes[outcome] += 1
        self._bars.advance(SEQUENCES)

    async def _outcome(self, one: AlertSequence | Unread | Listed) -> SequenceOutcome:
        match one:
            case AlertSequence():
                return await self._sequence(one)
            case Listed():
                return await self._again(one)
            case Unread():
                raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, one.why)

    async def _sequence(self, sequence: AlertSequence) -> SequenceOutcome:
        options = self._options
        mark = sequence_mark(sequence, options.rule, options.detections_max, options.newest_first)
        if self._state is not None and self._state.is_imported(sequence.id, mark):
            return SequenceOutcome.SKIPPED
        seen = await self._seen(sequence)
        if self._annotations is None:
            self._plan(sequence.id, ((one.id, one) for one in seen.detections))
            return SequenceOutcome.IMPORTED
        sequence_id, is_new = await self._annotations.create_sequence(
            sequence_form(options.source, sequence, seen.camera, seen.organisation)
        )
        known = {} if is_new else {one.alert_api_id: one.id for one in await self._annotations.uploaded(sequence_id)}
        self._bars.expect(FRAMES, len(seen.detections))
        ids = await _all(self._detection(seen, one, sequence_id, known.get(one.id)) for one in seen.detections)
        placed = _placed(zip(ids, seen.detections, strict=True))
        clusters = cluster(placed, options.rule, _generation(seen.detections))
        await self._annotate(sequence_id, clusters)
        assert self._state is not None
        self._state.imported(sequence.id, mark)
        return SequenceOutcome.IMPORTED

    async def _seen(self, sequence: AlertSequence) -> _Seen:
        assert self._alerts is not None
        camera = await self._alerts.camera(sequence.camera_id)
        organisation = await self._alerts.organisation(camera.organization_id)
        detections = await self._alerts.detections_of(
            sequence.id, pictures_max=self._options.detections_max, newest_first=self._options.newest_first
        )
        self.statistics.boxes_dropped += sum(one.predictions.dropped + one.others.dropped for one in detections)
        return _Seen(sequence, camera, organisation, detections)

    async def _detection(self, seen: _Seen, detection: Detection, sequence_id: int, known: int | None) -> int:
        """Publish a detection's picture here and upload it there, each unless it was done; return its id there."""
        assert self._alerts is not None
        assert self._annotations is not None
        assert self._state is not None
        async with self._pictures_in_work:
            if known is None or not self._state.is_published(detection.id):
                body = await self._alerts.picture(detection)
                header = image_header(body)
                if header is None:
                    raise RejectedError(RejectCode.NOT_AN_IMAGE, f"the picture of detection {detection.id} is none")
                await self._publish(seen, detection, body)
                if known is None:
                    name = f"detection_{detection.id}.{_EXTENSIONS[header.media_type]}"
                    picture = PlatformImage(name, header.media_type, body)
                    known = await self._annotations.upload(detection_form(sequence_id, detection), picture)
                    self.statistics.detections_uploaded += 1
        self._bars.advance(FRAMES)
        return known

    async def _publish(self, seen: _Seen, detection: Detection, body: bytes) -> None:
        assert self._publish_frame is not None
        assert self._state is not None
        if self._state.is_published(detection.id):
            return
        attributes = frame_attributes(self._options.source, seen.sequence, detection, seen.camera, seen.organisation)
        await self._publish_frame(body, frame_origin(detection, seen.camera, seen.organisation), attributes)
        self._state.published(detection.id)
        self.statistics.frames_published += 1

    async def _again(self, listed: Listed) -> SequenceOutcome:
        """Annotate a sequence of the annotation API by the boxes that it has."""
        assert self._annotations is not None
        uploaded = await self._annotations.uploaded(listed.id)
        placed = [ClusteredBox(one.id, box) for one in uploaded for box in one.boxes]
        clusters = cluster(placed, self._options.rule, _generation(uploaded))
        if self._options.dry_run:
            self.planned.append(Planned(listed.id, clusters))
            return SequenceOutcome.IMPORTED
        made = await self._annotate(listed.id, clusters)
        return SequenceOutcome.IMPORTED if made in {Made.CREATED, Made.OVERWRITTEN} else SequenceOutcome.SKIPPED

    async def _annotate(self, sequence_id: int, clusters: tuple[Cluster, ...]) -> Made:
        assert self._annotations is not None
        body = annotation_body(sequence_id, clusters, self._options.rule)
        made = await self._annotations.annotate(body, keep_annotated=self._options.keep_annotated)
        self.statistics.annotations_created += made is Made.CREATED
        self.statistics.annotations_overwritten += made is Made.OVERWRITTEN
        return made

    def _plan(self, sequence_id: int, detections: Iterable[tuple[int, Detection]]) -> None:
        known = list(detections)
        clusters = cluster(_placed(known), self._options.rule, _generation([one for _, one in known]))
        self.planned.append(Planned(sequence_id, clusters))

    def _fault(self, what: str, error: HeadraceError | RejectedError) -> None:
        said = f"{error.what} ({error.where})" if isinstance(error, HeadraceError) and error.where else str(error)
        self.statistics.faults.append(f"{what}: {said}")
        status = error.status if isinstance(error, PlatformApiError) else None
        get_log().error(Action.REFUSED, what=what, why=said, status=status)


def _placed(detections: Iterable[tuple[int, Detection]]) -> list[ClusteredBox]:
    return [ClusteredBox(detection_id, box) for detection_id, one in detections for box in one.predictions.boxes]


def _generation(detections: Several[Detection | UploadedDetection]) -> Generation:
    return detections[0].generation if detections else Generation.FIRST


async def _all(work: Iterable[Awaitable[int]]) -> list[int]:
    """Wait for each, then raise the first fault if there is one: what goes well is not stopped by what does not."""
    done = await asyncio.gather(*work, return_exceptions=True)
    for one in done:
        if isinstance(one, BaseException):
            raise one
    return [one for one in done if isinstance(one, int)]
