"""Imports sequences day by day; each one is either complete or is imported again by the next run.

For each sequence, the import reads its detections, publishes each image as a frame, uploads it to the annotation API,
and creates the sequence's annotation from its boxes. A later run resumes an interrupted one: the state file tells which
frames Kafka has acknowledged, and the annotation API which detections it has.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time
from typing import TypeAlias

from headrace.batch.platform.annotations import AnnotationOutcome
from headrace.batch.platform.api import PlatformApiError
from headrace.batch.platform.boxes import ClusteredBox, Generation, cluster
from headrace.batch.platform.entities import (
    AlertSequence,
    AnnotationSequence,
    InvalidRow,
    SequenceData,
    UploadedDetection,
)
from headrace.batch.platform.objects import SequencePart, own_box_keys, part_box_keys, split_objects, whole_sequence
from headrace.batch.platform.options import (
    SEQUENCES,
    ImageTransfer,
    ImportDeps,
    ImportOptions,
    PlannedAnnotation,
    ProgressBars,
)
from headrace.batch.platform.payloads import track_of
from headrace.batch.platform.sequences import SequenceImporter
from headrace.batch.platform.state import sequence_fingerprint
from headrace.batch.platform.statistics import DayReport, ImportStatistics, SequenceOutcome, days_between
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.reject import RejectCode, RejectedError

ListedSequence: TypeAlias = AlertSequence | InvalidRow | AnnotationSequence


class ImportRun:
    """One run of the import."""

    def __init__(self, options: ImportOptions, deps: ImportDeps, bars: ProgressBars) -> None:
        self._options = options
        self._bars = bars
        self._alerts = deps.alerts
        self._annotations = deps.annotations
        self._state = deps.state
        self._slots = asyncio.Semaphore(options.workers)
        self._read_ahead: dict[int, SequenceData | HeadraceError] = {}
        self._owners: dict[object, set[int]] = {}  # the sequences that followed a box, by the box on its image
        self.statistics = ImportStatistics()
        self._importer = SequenceImporter(options, deps, self.statistics, bars)
        self.planned: list[PlannedAnnotation] = []

    async def run(self) -> ImportStatistics:
        """Import all days; a failed sequence is counted and named, and the others continue.

        Raises:
            HeadraceError: an API refused the login or is unreachable, or cannot fetch images as told.
        """
        for api in (self._alerts, self._annotations):
            if api is not None:
                await api.open()
        if self._options.transfer is not ImageTransfer.UPLOAD and not self._is_split:
            raise HeadraceError(
                "option_invalid",
                f"this annotation API does not know --image-transfer {self._options.transfer}",
                hint="use --image-transfer upload",
                exit_code=Exit.USAGE,
            )
        for day in days_between(self._options.first, self._options.last):
            await self._import_day(DayReport(day))
        return self.statistics

    @property
    def _is_split(self) -> bool:
        return self._annotations.generation is Generation.SECOND

    async def _import_day(self, report: DayReport) -> None:
        self.statistics.days.append(report)
        try:
            sequences = self._selected(await self._sequences_of(report.day))
        except HeadraceError as error:
            report.fault = error.what
            self._record_fault(f"{report.day}", error)
            return
        report.fetched = len(sequences)
        self._bars.expect(SEQUENCES, len(sequences))
        await self._read_day([sequence for sequence in sequences if isinstance(sequence, AlertSequence)])
        async with asyncio.TaskGroup() as group:
            for sequence in sequences:
                group.create_task(self._import_counted(report, sequence))

    async def _sequences_of(self, day: date) -> Sequence[ListedSequence]:
        if self._alerts is not None:
            return await self._alerts.sequences_of(day)
        begin, end = (datetime.combine(day, at, UTC) for at in (time.min, time.max))
        return await self._annotations.sequences_between(begin, end)

    def _selected(self, sequences: Sequence[ListedSequence]) -> Sequence[ListedSequence]:
        """Return the sequences that were asked for, and no more than the rest of the maximum."""
        options = self._options
        if options.only:
            sequences = [item for item in sequences if _platform_id(item) in options.only]
        if not options.sequences_max:
            return sequences
        return sequences[: max(0, options.sequences_max - self.statistics.total)]

    async def _read_day(self, sequences: Sequence[AlertSequence]) -> None:
        """Read the second generation's detections of a day: sequences of it share images and objects.

        Nothing is read if all sequences are imported already.
        """
        second = [sequence for sequence in sequences if sequence.generation is Generation.SECOND]
        self._read_ahead.clear()
        if all(map(self._is_imported, second)):
            return

        async def read(sequence: AlertSequence) -> None:
            async with self._slots:
                try:
                    self._read_ahead[sequence.id] = await self._read(sequence)
                except HeadraceError as error:
                    self._read_ahead[sequence.id] = error

        async with asyncio.TaskGroup() as group:
            for sequence in second:
                group.create_task(read(sequence))
        shared: dict[str, list[tuple[int, int]]] = {}
        for number, data in self._read_ahead.items():
            if isinstance(data, SequenceData):
                for key in own_box_keys(data.detections):
                    self._owners.setdefault(key, set()).add(number)
                for detection in data.detections:
                    shared.setdefault(detection.bucket_key or "", []).append((number, detection.id))
        shared.pop("", None)
        self._importer.share_images(shared)

    async def _import_counted(self, report: DayReport, sequence: ListedSequence) -> None:
        async with self._slots:
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
        if self._is_imported(sequence):
            return SequenceOutcome.SKIPPED
        data = self._read_ahead.pop(sequence.id, None) or await self._read(sequence)
        if isinstance(data, HeadraceError):
            raise data
        self.statistics.boxes_dropped += sum(
            detection.predictions.dropped + detection.others.dropped for detection in data.detections
        )
        if data.note:
            self.statistics.notes.append(f"sequence {sequence.id}: {data.note}")
        if not data.detections:
            self.statistics.sequences_empty += 1
            return SequenceOutcome.SKIPPED
        parts = self._parts(data)
        get_log().debug(
            Action.ANSWERED,
            what=f"sequence {sequence.id}",
            detections=len(data.detections),
            becomes=[part.alert_api_id for part in parts],
        )
        if self._options.dry_run:
            for part in parts:
                self._plan(part.alert_api_id, self._importer.planned(data, part))
            return SequenceOutcome.IMPORTED
        is_complete = await self._importer.run(data, parts)
        if is_complete and not data.lacks_images and self._state is not None:
            self._state.mark_imported(sequence.id, self._fingerprint(sequence))
        return SequenceOutcome.IMPORTED

    def _parts(self, data: SequenceData) -> list[SequencePart]:
        """Return what becomes an annotation sequence of its own.

        An object that the platform has made a sequence of its own is left to that.
        """
        if not self._is_split:
            return [whole_sequence(data.sequence, data.detections)]
        first, *siblings = split_objects(
            data.sequence,
            data.detections,
            data.camera.angle_of_view,
            confidence_threshold=self._options.rule.confidence_threshold,
        )
        return [first, *(part for part in siblings if not self._has_another_owner(part, data.sequence.id))]

    def _has_another_owner(self, part: SequencePart, sequence_id: int) -> bool:
        return any(self._owners.get(key, set()) - {sequence_id} for key in part_box_keys(part))

    async def _read(self, sequence: AlertSequence) -> SequenceData:
        assert self._alerts is not None
        options = self._options
        return await self._alerts.read(sequence, images_max=options.detections_max, newest_first=options.newest_first)

    def _is_imported(self, sequence: AlertSequence) -> bool:
        return self._state is not None and self._state.is_imported(sequence.id, self._fingerprint(sequence))

    def _fingerprint(self, sequence: AlertSequence) -> str:
        options = self._options
        return sequence_fingerprint(sequence, options.rule, options.detections_max, options.newest_first)

    async def _annotate_again(self, sequence: AnnotationSequence) -> SequenceOutcome:
        """Annotate a sequence of the annotation API from the boxes of its detections."""
        uploaded = await self._annotations.uploaded(sequence.id)
        if self._is_split:  # it is one object
            clusters = track_of((detection.id, detection.boxes) for detection in uploaded)
        else:
            boxes = [ClusteredBox(detection.id, box) for detection in uploaded for box in detection.boxes]
            clusters = cluster(boxes, self._options.rule, _generation(uploaded))
        if self._options.dry_run:
            self._plan(sequence.id, clusters)
            return SequenceOutcome.IMPORTED
        outcome = await self._importer.annotate(sequence.id, clusters)
        changed = outcome in {AnnotationOutcome.CREATED, AnnotationOutcome.OVERWRITTEN}
        return SequenceOutcome.IMPORTED if changed else SequenceOutcome.SKIPPED

    def _plan(self, sequence_id: int, clusters: tuple[tuple[ClusteredBox, ...], ...]) -> None:
        self.planned.append(PlannedAnnotation(sequence_id, clusters))
        self.statistics.annotations_planned += 1

    def _record_fault(self, subject: str, error: HeadraceError | RejectedError) -> None:
        reason = f"{error.what} ({error.where})" if isinstance(error, HeadraceError) and error.where else str(error)
        self.statistics.faults.append(f"{subject}: {reason}")
        status = error.status if isinstance(error, PlatformApiError) else None
        get_log().error(Action.REFUSED, what=subject, why=reason, status=status)


def _platform_id(sequence: ListedSequence) -> int:
    return sequence.alert_api_id if isinstance(sequence, AnnotationSequence) else sequence.id


def _generation(detections: Iterable[UploadedDetection]) -> Generation:
    return next((detection.generation for detection in detections), Generation.FIRST)
