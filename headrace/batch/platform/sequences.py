"""Imports one sequence: publishes its images, uploads its detections, and annotates it.

The first generation of the annotation API has one sequence for a sequence of the platform, the second one for each
object that the sequence shows. A detection whose image the platform does not have is left out by the first; the second
deletes a new sequence that is not complete.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.batch.platform.alerts import MissingImageError
from headrace.batch.platform.annotations import AnnotationOutcome, ImageSource
from headrace.batch.platform.api import PlatformApiError, PlatformImage
from headrace.batch.platform.boxes import Cluster, ClusteredBox, Generation, cluster
from headrace.batch.platform.entities import Detection, SequenceData
from headrace.batch.platform.objects import ImportedFrame, SequencePart
from headrace.batch.platform.options import FRAMES, ImageTransfer, ImportDeps, ImportOptions, ProgressBars
from headrace.batch.platform.payloads import (
    annotation_body,
    detection_body,
    frame_attributes,
    frame_origin,
    sequence_form,
    single_track,
    temporal_body,
)
from headrace.batch.platform.statistics import ImportStatistics
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.pictures import inspect_picture
from headrace.schemas.media.formats import EXTENSIONS
from headrace.schemas.media_probe import ImageHeader, image_header_of
from headrace.schemas.reject import RejectedError
from headrace.schemas.validate import check_header


@dataclass(slots=True)
class _OpenPart:
    """A part with its sequence in the annotation API, and the ids of its detections there, by the platform's."""

    part: SequencePart
    sequence_id: int
    is_new: bool
    ids: dict[int, int]

    def frame(self, detection: Detection) -> ImportedFrame | None:
        return next((frame for frame in self.part.frames if frame.detection.id == detection.id), None)


class SequenceImporter:
    """Imports sequences one at a time; may be called concurrently."""

    def __init__(
        self, options: ImportOptions, deps: ImportDeps, statistics: ImportStatistics, bars: ProgressBars
    ) -> None:
        self._options = options
        self._annotations = deps.annotations
        self._alerts = deps.alerts
        self._publish_frame = deps.publish
        self._state = deps.state
        self._statistics = statistics
        self._bars = bars
        self._image_slots = asyncio.Semaphore(options.workers)
        self._shared: Mapping[str, Sequence[tuple[int, int]]] = {}

    @property
    def _is_split(self) -> bool:
        return self._annotations.generation is Generation.SECOND

    def share_images(self, shared: Mapping[str, Sequence[tuple[int, int]]]) -> None:
        """Set which sequences have an image, each with its detection, by the key of the image."""
        self._shared = shared

    def planned(self, data: SequenceData, part: SequencePart) -> tuple[Cluster, ...]:
        """Return the tracks that a part would have; they name the platform's detections."""
        return self._tracks(data, part, {frame.detection.id: frame.detection.id for frame in part.frames})

    async def run(self, data: SequenceData, parts: Sequence[SequencePart]) -> bool:
        """Import a sequence, and return whether it is complete.

        Raises:
            HeadraceError: an API failed. RejectedError: an image can never be ingested.
        """
        first = await self._first_image(data)
        opened = [await self._open(data, part) for part in parts]
        self._bars.expect(FRAMES, len(data.detections))
        results = await asyncio.gather(
            *(self._import_detection(data, detection, opened, first) for detection in data.detections),
            return_exceptions=True,
        )
        errors = [result for result in results if isinstance(result, BaseException)]
        if not self._is_split:
            errors = [error for error in errors if not isinstance(error, MissingImageError)]
        missing = [
            detection.id
            for detection, result in zip(data.detections, results, strict=True)
            if isinstance(result, MissingImageError)
        ]
        self._statistics.images_missing += len(missing)
        if errors and not self._is_split:
            raise errors[0]
        for item in opened:
            await self._finish(data, item)
        if errors:
            raise errors[0]
        if missing:
            numbers = ", ".join(map(str, missing))
            self._statistics.notes.append(
                f"sequence {data.sequence.id}: imported without detections whose image is missing: {numbers}"
            )
        return not missing

    async def _first_image(self, data: SequenceData) -> dict[int, bytes]:
        """Read an image before anything is written, so that a sequence without any leaves nothing behind."""
        error: MissingImageError | None = None
        for detection in data.detections:
            if self._is_published(detection):
                return {}
            try:
                return {detection.id: await self._image(detection)}
            except MissingImageError as missing:
                if self._is_split:
                    raise
                error = error or missing
        if error is not None:
            raise error
        return {}

    async def _open(self, data: SequenceData, part: SequencePart) -> _OpenPart:
        form = sequence_form(self._options.source, data, part)
        sequence_id, is_new = await self._annotations.create_sequence(form)
        known = {} if is_new else await self._annotations.readable(sequence_id)
        if known is None:
            await self._annotations.delete_sequence(sequence_id)
            (sequence_id, is_new), known = await self._annotations.create_sequence(form), {}
        if self._is_split and not is_new and part.temporal.is_known:
            await self._annotations.refresh_score(temporal_body(self._options.source, part))
            self._statistics.scores_refreshed += 1
        return _OpenPart(part, sequence_id, is_new, known)

    async def _import_detection(
        self, data: SequenceData, detection: Detection, opened: Sequence[_OpenPart], first: Mapping[int, bytes]
    ) -> None:
        """Publish a detection's image as a frame and upload it where it belongs, unless done before."""
        async with self._image_slots:
            frames = [(item, frame) for item in opened if (frame := item.frame(detection)) is not None]
            due = [(item, frame) for item, frame in frames if detection.id not in item.ids]
            if due or not self._is_published(detection):
                body = first[detection.id] if detection.id in first else await self._image(detection)
                media_type = (await _checked(body, detection)).media_type
                extension = EXTENSIONS[media_type]
                await self._publish(data, detection, body)
                await self._upload(due, PlatformImage(f"detection_{detection.id}.{extension}", media_type, body))
        self._bars.advance(FRAMES)

    async def _upload(self, due: Sequence[tuple[_OpenPart, ImportedFrame]], image: PlatformImage) -> None:
        """Upload a detection to each part; a failure of one does not stop the others, and the first is raised."""
        fault: PlatformApiError | None = None
        for item, frame in due:
            try:
                source = await self._transferred(frame.detection, image)
                body = detection_body(item.sequence_id, frame)
                item.ids[frame.detection.id] = await self._annotations.upload(body, source)
                self._statistics.detections_uploaded += 1
            except PlatformApiError as error:
                fault = fault or error
        if fault is not None:
            raise fault

    async def _transferred(self, detection: Detection, image: PlatformImage) -> PlatformImage | ImageSource:
        transfer = self._options.transfer
        if transfer is ImageTransfer.UPLOAD:
            return image
        if transfer is ImageTransfer.BUCKET_COPY and detection.bucket_key:
            return ImageSource.bucket_key(detection.bucket_key)
        assert self._alerts is not None
        return ImageSource.url(await self._alerts.image_url(detection))

    async def _finish(self, data: SequenceData, item: _OpenPart) -> None:
        """Annotate a part, or delete a new one of the second generation that is not complete."""
        is_complete = all(frame.detection.id in item.ids for frame in item.part.frames)
        if self._is_split and not is_complete:
            if item.is_new or not await self._annotations.has_annotation(item.sequence_id):
                await self._roll_back(item)
            return
        if not self._is_split and not await self._annotations.has_all_images(item.sequence_id):
            raise PlatformApiError("", "the annotation API stored a detection without its image")
        try:
            await self.annotate(item.sequence_id, self._tracks(data, item.part, item.ids))
        except HeadraceError:
            if self._is_split and item.is_new:
                await self._roll_back(item)
            raise
        if self._is_split and not item.part.has_boxes:
            await self._park(item.part)

    async def _roll_back(self, item: _OpenPart) -> None:
        await self._annotations.delete_sequence(item.sequence_id)
        self._statistics.sequences_rolled_back += 1

    async def annotate(self, sequence_id: int, clusters: tuple[Cluster, ...]) -> AnnotationOutcome:
        """Create or overwrite the annotation of a sequence of the annotation API."""
        body = annotation_body(sequence_id, clusters, self._options.rule)
        outcome = await self._annotations.annotate(body, keep_annotated=self._options.keep_annotated)
        self._statistics.annotations_new += outcome is AnnotationOutcome.CREATED
        self._statistics.annotations_overwritten += outcome is AnnotationOutcome.OVERWRITTEN
        return outcome

    async def _park(self, part: SequencePart) -> None:
        """Park an alert without boxes; a failure is noted, since the sequence is imported."""
        assert part.platform_alert_id is not None
        try:
            parked = await self._annotations.park(self._options.source, part.platform_alert_id)
        except PlatformApiError as error:
            self._statistics.notes.append(f"sequence {part.platform_alert_id}: not parked: {error.what}")
        else:
            self._statistics.alerts_parked += parked

    def _tracks(self, data: SequenceData, part: SequencePart, ids: Mapping[int, int]) -> tuple[Cluster, ...]:
        if self._is_split:
            return single_track(ids, part)
        generation = data.detections[0].generation if data.detections else Generation.FIRST
        boxes = [
            ClusteredBox(ids[frame.detection.id], box)
            for frame in part.frames
            if frame.detection.id in ids
            for box in frame.boxes
        ]
        return cluster(boxes, self._options.rule, generation)

    async def _image(self, detection: Detection) -> bytes:
        assert self._alerts is not None
        return await self._alerts.image(detection)

    async def _publish(self, data: SequenceData, detection: Detection, body: bytes) -> None:
        assert self._publish_frame is not None
        assert self._state is not None
        if self._is_published(detection):
            return
        shared = self._shared.get(detection.bucket_key or "", ())
        attributes = frame_attributes(self._options.source, data, detection, shared)
        await self._publish_frame(body, frame_origin(data, detection), attributes)
        self._state.mark_published(detection.id)
        self._statistics.frames_published += 1
        get_log().debug(Action.ANSWERED, what=f"frame of detection {detection.id} published", bytes=len(body))

    def _is_published(self, detection: Detection) -> bool:
        assert self._state is not None
        return self._state.is_published(detection.id)


async def _checked(body: bytes, detection: Detection) -> ImageHeader:
    """Return the header of a detection's image, which can be decoded; raises RejectedError otherwise."""
    try:
        header = image_header_of(body)
        check_header(header, len(body))
        await asyncio.to_thread(inspect_picture, body, header)
    except RejectedError as rejected:
        raise RejectedError(rejected.code, f"the file of detection {detection.id}: {rejected.reason}") from None
    return header
