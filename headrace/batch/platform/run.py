"""Imports sequences day by day; each one is either complete or is imported again by the next run.

For each sequence, the import reads its detections, publishes each image as a frame, uploads it to the annotation API,
and creates the sequence's annotation from its boxes. A later run resumes an interrupted one: the state file tells which
frames Kafka has acknowledged, and the annotation API which detections it has.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Protocol, TypeAlias

from headrace.batch.platform.alerts import AlertApi
from headrace.batch.platform.annotations import AnnotationApi, AnnotationOutcome
from headrace.batch.platform.api import PlatformApiError, PlatformImage
from headrace.batch.platform.boxes import Cluster, ClusteredBox, ClusterRule, Generation, cluster
from headrace.batch.platform.entities import (
    AlertSequence,
    AnnotationSequence,
    Detection,
    InvalidRow,
    Organisation,
    PlatformCamera,
    UploadedDetection,
)
from headrace.batch.platform.payloads import (
    annotation_body,
    detection_form,
    frame_attributes,
    frame_origin,
    sequence_form,
)
from headrace.batch.platform.state import ImportState, sequence_fingerprint
from headrace.batch.platform.statistics import DayReport, ImportStatistics, SequenceOutcome, days_between
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.events import Origin
from headrace.schemas.media_probe import image_header
from headrace.schemas.reject import RejectCode, RejectedError

SEQUENCES = "sequences"
FRAMES = "frames"
_EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}


# Publishes an image with its origin and attributes, and returns once Kafka has acknowledged it.
PublishFrame: TypeAlias = Callable[[bytes, Origin, bytes], Awaitable[None]]
ListedSequence: TypeAlias = AlertSequence | InvalidRow | AnnotationSequence


class ProgressBars(Protocol):
    """Shows the progress of a run, one bar for each kind of item."""

    def expect(self, what: str, number: int) -> None:
        """Increase the total of a bar."""

    def advance(self, what: str) -> None:
        """Advance a bar by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What to import; days include both ends, `source` is the annotation API's name of the platform."""

    first: date
    last: date
    source: str
    rule: ClusterRule = field(default_factory=ClusterRule)
    detections_max: int = 30
    newest_first: bool = False
    dry_run: bool = False
    keep_annotated: bool = False
    workers: int = 4


@dataclass(frozen=True, slots=True)
class ImportDeps:
    """The services of a run; without `alerts` it annotates again the sequences that the annotation API has."""

    alerts: AlertApi | None
    annotations: AnnotationApi | None
    publish: PublishFrame | None
    state: ImportState | None


@dataclass(frozen=True, slots=True)
class PlannedAnnotation:
    """An annotation that a dry run would write; ids are those of the API that the sequence was read from."""

    sequence_id: int
    clusters: tuple[Cluster, ...]


@dataclass(frozen=True, slots=True)
class _SequenceData:
    """A sequence with its camera, organisation and detections."""

    sequence: AlertSequence
    camera: PlatformCamera
    organisation: Organisation
    detections: Sequence[Detection]


class ImportRun:
    """One run of the import."""

    def __init__(self, options: ImportOptions, deps: ImportDeps, bars: ProgressBars) -> None:
        self._options = options
        self._bars = bars
        self._alerts = deps.alerts
        self._annotations = deps.annotations
        self._publish_frame = deps.publish
        self._state = deps.state
        self._sequence_slots = asyncio.Semaphore(options.workers)
        self._image_slots = asyncio.Semaphore(options.workers)
        self.statistics = ImportStatistics()
        self.planned: list[PlannedAnnotation] = []

    async def run(self) -> ImportStatistics:
        """Import all days; a failed sequence is counted and named, and the others continue.

        Raises:
            HeadraceError: an API refused the login or is unreachable.
        """
        for api in (self._alerts, self._annotations):
            if api is not None:
                await api.open()
        for day in days_between(self._options.first, self._options.last):
            await self._import_day(DayReport(day))
        return self.statistics

    async def _import_day(self, report: DayReport) -> None:
        self.statistics.days.append(report)
        try:
            sequences = await self._sequences_of(report.day)
        except HeadraceError as error:
            report.fault = error.what
            self._record_fault(f"{report.day}", error)
            return
        report.fetched = len(sequences)
        self._bars.expect(SEQUENCES, len(sequences))
        async with asyncio.TaskGroup() as group:
            for sequence in sequences:
                group.create_task(self._import_counted(report, sequence))

    async def _sequences_of(self, day: date) -> Sequence[ListedSequence]:
        if self._alerts is not None:
            return await self._alerts.sequences_of(day)
        assert self._annotations is not None
        begin, end = (datetime.combine(day, at, UTC) for at in (time.min, time.max))
        return await self._annotations.sequences_between(self._options.source, begin, end)

    async def _import_counted(self, report: DayReport, sequence: ListedSequence) -> None:
        async with self._sequence_slots:
            try:
                outcome = await self._import_listed(sequence)
            except (HeadraceError, RejectedError) as error:
                outcome = SequenceOutcome.FAILED
                self._record_fault(f"sequence {sequence.id}", error)
        report.outcomes[outcome] += 1
        self._bars.advance(SEQUENCES)

    async def _import_listed(self, sequence: ListedSequence) -> SequenceOutcome:
        match sequence:
            case AlertSequence():
                return await self._import_sequence(sequence)
            case AnnotationSequence():
                return await self._annotate_again(sequence)
            case InvalidRow():
                raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, sequence.reason)

    async def _import_sequence(self, sequence: AlertSequence) -> SequenceOutcome:
        options = self._options
        fingerprint = sequence_fingerprint(sequence, options.rule, options.detections_max, options.newest_first)
        if self._state is not None and self._state.is_imported(sequence.id, fingerprint):
            return SequenceOutcome.SKIPPED
        data = await self._read(sequence)
        generation = _generation(data.detections)
        if self._annotations is None:
            boxes = _boxes_of((detection.id, detection) for detection in data.detections)
            self.planned.append(PlannedAnnotation(sequence.id, cluster(boxes, options.rule, generation)))
            return SequenceOutcome.IMPORTED
        sequence_id, is_new = await self._annotations.create_sequence(
            sequence_form(options.source, sequence, data.camera, data.organisation)
        )
        known = {} if is_new else await self._annotations.readable(sequence_id)
        if known is None:
            await self._annotations.delete_sequence(sequence_id)
            form = sequence_form(options.source, sequence, data.camera, data.organisation)
            sequence_id, known = (await self._annotations.create_sequence(form))[0], {}
        self._bars.expect(FRAMES, len(data.detections))
        ids = await _gather_all(
            self._import_detection(data, detection, sequence_id, known.get(detection.id))
            for detection in data.detections
        )
        boxes = _boxes_of(zip(ids, data.detections, strict=True))
        await self._annotate(sequence_id, cluster(boxes, options.rule, generation))
        assert self._state is not None
        self._state.mark_imported(sequence.id, fingerprint)
        return SequenceOutcome.IMPORTED

    async def _read(self, sequence: AlertSequence) -> _SequenceData:
        assert self._alerts is not None
        camera = await self._alerts.camera(sequence.camera_id)
        organisation = await self._alerts.organisation(camera.organization_id)
        detections = await self._alerts.detections_of(
            sequence.id, images_max=self._options.detections_max, newest_first=self._options.newest_first
        )
        self.statistics.boxes_dropped += sum(
            detection.predictions.dropped + detection.others.dropped for detection in detections
        )
        return _SequenceData(sequence, camera, organisation, detections)

    async def _import_detection(
        self, data: _SequenceData, detection: Detection, sequence_id: int, uploaded_id: int | None
    ) -> int:
        """Publish a detection's image as a frame and upload it, unless done before; return its id after the upload."""
        assert self._alerts is not None
        assert self._annotations is not None
        assert self._state is not None
        async with self._image_slots:
            if uploaded_id is None or not self._state.is_published(detection.id):
                body = await self._alerts.image(detection)
                header = image_header(body)
                if header is None:
                    what = f"the file of detection {detection.id} is not a JPEG, PNG or WebP image"
                    raise RejectedError(RejectCode.NOT_AN_IMAGE, what)
                await self._publish(data, detection, body)
                if uploaded_id is None:
                    name = f"detection_{detection.id}.{_EXTENSIONS[header.media_type]}"
                    image = PlatformImage(name, header.media_type, body)
                    uploaded_id = await self._annotations.upload(detection_form(sequence_id, detection), image)
                    self.statistics.detections_uploaded += 1
        self._bars.advance(FRAMES)
        return uploaded_id

    async def _publish(self, data: _SequenceData, detection: Detection, body: bytes) -> None:
        assert self._publish_frame is not None
        assert self._state is not None
        if self._state.is_published(detection.id):
            return
        attributes = frame_attributes(self._options.source, data.sequence, detection, data.camera, data.organisation)
        await self._publish_frame(body, frame_origin(detection, data.camera, data.organisation), attributes)
        self._state.mark_published(detection.id)
        self.statistics.frames_published += 1

    async def _annotate_again(self, sequence: AnnotationSequence) -> SequenceOutcome:
        """Annotate a sequence of the annotation API from the boxes of its detections."""
        assert self._annotations is not None
        uploaded = await self._annotations.uploaded(sequence.id)
        boxes = [ClusteredBox(detection.id, box) for detection in uploaded for box in detection.boxes]
        clusters = cluster(boxes, self._options.rule, _generation(uploaded))
        if self._options.dry_run:
            self.planned.append(PlannedAnnotation(sequence.id, clusters))
            return SequenceOutcome.IMPORTED
        outcome = await self._annotate(sequence.id, clusters)
        changed = outcome in {AnnotationOutcome.CREATED, AnnotationOutcome.OVERWRITTEN}
        return SequenceOutcome.IMPORTED if changed else SequenceOutcome.SKIPPED

    async def _annotate(self, sequence_id: int, clusters: tuple[Cluster, ...]) -> AnnotationOutcome:
        assert self._annotations is not None
        body = annotation_body(sequence_id, clusters, self._options.rule)
        outcome = await self._annotations.annotate(body, keep_annotated=self._options.keep_annotated)
        self.statistics.annotations_created += outcome is AnnotationOutcome.CREATED
        self.statistics.annotations_overwritten += outcome is AnnotationOutcome.OVERWRITTEN
        return outcome

    def _record_fault(self, subject: str, error: HeadraceError | RejectedError) -> None:
        reason = f"{error.what} ({error.where})" if isinstance(error, HeadraceError) and error.where else str(error)
        self.statistics.faults.append(f"{subject}: {reason}")
        status = error.status if isinstance(error, PlatformApiError) else None
        get_log().error(Action.REFUSED, what=subject, why=reason, status=status)


def _boxes_of(detections: Iterable[tuple[int, Detection]]) -> list[ClusteredBox]:
    return [
        ClusteredBox(detection_id, box) for detection_id, detection in detections for box in detection.predictions.boxes
    ]


def _generation(detections: Sequence[Detection | UploadedDetection]) -> Generation:
    return detections[0].generation if detections else Generation.FIRST


async def _gather_all(work: Iterable[Awaitable[int]]) -> list[int]:
    """Wait for all, then raise the first error if any: a failure does not cancel the others."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, int)]
