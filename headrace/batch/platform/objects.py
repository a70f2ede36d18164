"""Splits the detections of an alert into the objects that they show, as the second generation's importer does. Pure.

The platform follows one object per sequence, but its detections also list the boxes of other objects on the same image.
A box continues the object whose last box it overlaps; an object begins with MEMBERS_MIN boxes that overlap within
START_S_MAX. Boxes that never reach this belong to no object, unless no object begins at all: then the whole sequence
is kept as it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from headrace.batch.platform.boxes import Box, bounding_box
from headrace.batch.platform.entities import AlertSequence, Detection

MEMBERS_MIN = 3
START_S_MAX = 300
GAP_S_MAX = 7200  # an object that was not seen for longer does not continue
SIBLING_ID_BASE = 1_000_000_000
_SIBLINGS_MAX = 1000  # ids of one sequence's objects
_COORDINATE_DECIMALS = 4

BoxKey = tuple[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class ImportedFrame:
    """A detection with the boxes that it has in one annotation sequence, and the other boxes of its image."""

    detection: Detection
    boxes: tuple[Box, ...]
    others: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class TemporalScore:
    """What the platform's temporal model says of a sequence; `is_known` is False where it may have said something."""

    score: float | None = None
    model_version: str | None = None
    api_version: str | None = None
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class SequencePart:
    """What one annotation sequence is made of: a whole sequence, or one of its objects. `azimuth` is in degrees."""

    alert_api_id: int
    frames: tuple[ImportedFrame, ...]
    started_at: datetime
    last_seen_at: datetime | None
    azimuth: int | None
    temporal: TemporalScore = field(default_factory=TemporalScore)
    platform_alert_id: int | None = None

    @property
    def has_boxes(self) -> bool:
        """Whether any frame has a box."""
        return any(frame.boxes for frame in self.frames)


@dataclass(frozen=True, slots=True)
class _Member:
    frame: ImportedFrame
    box: Box
    is_own: bool  # of the object that the platform followed

    @property
    def seen_at(self) -> datetime:
        return self.frame.detection.created_at


def whole_sequence(sequence: AlertSequence, detections: Sequence[Detection]) -> SequencePart:
    """Return a sequence as one part, with all boxes of each image."""
    frames = [ImportedFrame(detection, detection.predictions.boxes, detection.others.boxes) for detection in detections]
    return SequencePart(
        sequence.id, tuple(frames), sequence.started_at, sequence.last_seen_at, sequence.degrees, _temporal(sequence)
    )


def split_objects(
    sequence: AlertSequence,
    detections: Sequence[Detection],
    angle_of_view: float | None,
    *,
    confidence_threshold: float = 0.0,
) -> list[SequencePart]:
    """Return a part for each object, the one that the platform followed first.

    The first keeps the sequence's id and its temporal score, the others have ids of their own and no score.
    """
    frames = [_own_frame(detection, confidence_threshold) for detection in _in_order(detections)]
    objects = _objects(
        _Member(frame, box, is_own)
        for frame in frames
        for boxes, is_own in ((frame.boxes, True), (frame.others, False))
        for box in boxes
    )
    if not objects:
        part = whole_sequence(sequence, detections)
        return [replace(part, frames=tuple(frames), platform_alert_id=sequence.id)]
    own = [sum(member.is_own for member in members) for members in objects]
    primary = min(range(len(objects)), key=lambda index: (-own[index], objects[index][0].seen_at))
    siblings = [members for index, members in enumerate(objects) if index != primary]
    ordered = [objects[primary], *sorted(siblings, key=lambda members: members[0].seen_at)][:_SIBLINGS_MAX]
    known = _temporal(sequence)
    if not own[primary]:  # nobody can tell which object has the score
        known = TemporalScore(is_known=False)
    parts = []
    for position, members in enumerate(ordered):
        other_members = [member for index, other in enumerate(ordered) if index != position for member in other]
        part = _object_part(sequence, members, other_members, angle_of_view)
        if position:
            part = replace(
                part,
                alert_api_id=SIBLING_ID_BASE + sequence.id * 1000 + position,
                temporal=TemporalScore(is_known=known.is_known),
            )
        else:
            part = replace(part, temporal=known)
        parts.append(part)
    return parts


def own_box_keys(detections: Iterable[Detection]) -> set[BoxKey]:
    """Return image and corners of each box that the platform followed in a sequence."""
    frames = [_own_frame(detection, 0.0) for detection in detections]
    return {key for frame in frames for key in _keys(frame)}


def part_box_keys(part: SequencePart) -> set[BoxKey]:
    """Return image and corners of each box of a part, to compare with those of other sequences."""
    return {key for frame in part.frames for key in _keys(frame)}


def cone_azimuth(azimuth: float, box: Box, angle_of_view: float) -> float:
    """Return the direction of a box, in degrees, from the camera's azimuth and angle of view."""
    return round(azimuth + angle_of_view * ((box.x1 + box.x2) / 2 - 0.5), 1) % 360


def _objects(members: Iterable[_Member]) -> list[list[_Member]]:
    objects: list[list[_Member]] = []
    pending: list[_Member] = []
    for member in members:  # in order of time
        recent = sorted(
            (known for known in objects if _within(known[-1], member, GAP_S_MAX)),
            key=lambda known: known[-1].seen_at,
            reverse=True,
        )
        continued = next((known for known in recent if _overlap(known[-1].box, member.box)), None)
        if continued is not None:
            continued.append(member)
            continue
        start = [item for item in pending if _within(item, member, START_S_MAX) and _overlap(item.box, member.box)]
        start.append(member)
        if len(start) < MEMBERS_MIN:
            pending.append(member)
            continue
        objects.append(start)
        pending = [item for item in pending if not any(item is taken for taken in start)]
    return objects


def _object_part(
    sequence: AlertSequence, members: Sequence[_Member], others: Sequence[_Member], angle_of_view: float | None
) -> SequencePart:
    boxes: dict[int, Box] = {}
    other_boxes: dict[int, list[Box]] = {}
    by_id = {member.frame.detection.id: member.frame.detection for member in members}
    for member in members:
        number = member.frame.detection.id
        boxes[number] = bounding_box(boxes[number], member.box) if number in boxes else member.box
    for member in others:
        other_boxes.setdefault(member.frame.detection.id, []).append(member.box)
    detections = _in_order(by_id.values())
    azimuth, degrees = sequence.camera_direction, sequence.degrees
    if azimuth is not None and angle_of_view is not None:
        degrees = round(cone_azimuth(azimuth, members[0].box, angle_of_view)) % 360
    return SequencePart(
        sequence.id,
        tuple(
            ImportedFrame(detection, (boxes[detection.id],), tuple(other_boxes.get(detection.id, ())))
            for detection in detections
        ),
        detections[0].created_at,
        detections[-1].created_at,
        degrees,
        platform_alert_id=sequence.id,
    )


def _own_frame(detection: Detection, confidence_threshold: float) -> ImportedFrame:
    own = tuple(box for box in detection.own_predictions.boxes if box.confidence >= confidence_threshold)
    corners = {tuple(box.xyxyn) for box in own}
    others: dict[tuple[float, ...], Box] = {}
    for box in detection.other_predictions.boxes:
        if box.confidence >= confidence_threshold and tuple(box.xyxyn) not in corners:
            others.setdefault(tuple(box.xyxyn), box)
    return ImportedFrame(detection, own, tuple(others.values()))


def _temporal(sequence: AlertSequence) -> TemporalScore:
    return TemporalScore(
        sequence.temporal_model_score,
        sequence.temporal_model_version,
        sequence.temporal_api_version,
        is_known="temporal_model_score" in sequence.model_fields_set,
    )


def _keys(frame: ImportedFrame) -> Iterable[BoxKey]:
    if frame.detection.bucket_key:
        for box in frame.boxes:
            yield frame.detection.bucket_key, tuple(round(value, _COORDINATE_DECIMALS) for value in box.xyxyn)


def _in_order(detections: Iterable[Detection]) -> list[Detection]:
    return sorted(detections, key=lambda detection: detection.created_at)


def _within(earlier: _Member, later: _Member, seconds: int) -> bool:
    return later.seen_at - earlier.seen_at <= timedelta(seconds=seconds)


def _overlap(box: Box, other: Box) -> bool:
    return min(box.x2, other.x2) > max(box.x1, other.x1) and min(box.y2, other.y2) > max(box.y1, other.y1)
