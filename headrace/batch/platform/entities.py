"""The answers of the two APIs, in both generations; models validate only the fields that the import uses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Generic, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, PrivateAttr

from headrace.batch.platform.boxes import Box, Generation, ParsedBoxes, parse_boxes, valid_box

WILDFIRE = "wildfire_smoke"
_ID_MAX = 2**63 - 1  # the bigint of both APIs' databases, and the long of an event


def _in_utc(time: datetime) -> datetime:
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:  # the first or last hours of the calendar, in another zone
        raise ValueError("the time is out of range in UTC") from None


# The platform writes UTC without an offset.
UtcTime = Annotated[datetime, AfterValidator(_in_utc)]


class ApiEntity(BaseModel):
    """A row of an API; further fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: int = Field(ge=0, le=_ID_MAX)


Entity = TypeVar("Entity", bound=ApiEntity)


class InvalidRow(ApiEntity):
    """A row of a list that failed validation, and why."""

    reason: str


class Organisation(ApiEntity):
    """The owner of cameras."""

    name: str


class PlatformCamera(ApiEntity):
    """A camera and its position, in degrees and metres."""

    organization_id: int
    name: str
    lat: FiniteFloat
    lon: FiniteFloat
    elevation: FiniteFloat | None = None
    angle_of_view: FiniteFloat | None = None


class AlertSequence(ApiEntity):
    """A series of detections of one camera; the two generations name its azimuth differently."""

    camera_id: int
    started_at: UtcTime
    last_seen_at: UtcTime | None = None
    is_wildfire: str | bool | None = None
    azimuth: FiniteFloat | None = None
    camera_azimuth: FiniteFloat | None = None
    temporal_model_score: FiniteFloat | None = None
    temporal_model_version: str | None = None
    temporal_api_version: str | None = None

    @property
    def generation(self) -> Generation:
        """The generation of the platform: only the second names the camera's azimuth."""
        return Generation.SECOND if "camera_azimuth" in self.model_fields_set else Generation.FIRST

    @property
    def camera_direction(self) -> float | None:
        """The azimuth of the camera, in degrees."""
        return self.azimuth if self.azimuth is not None else self.camera_azimuth

    @property
    def degrees(self) -> int | None:
        """The azimuth of the camera, 0 to 359."""
        return None if self.camera_direction is None else round(self.camera_direction) % 360

    @property
    def wildfire_label(self) -> str | None:
        """The label that people gave it; older platforms use a boolean."""
        if isinstance(self.is_wildfire, bool):
            return WILDFIRE if self.is_wildfire else "other"
        return self.is_wildfire


class Detection(ApiEntity):
    """An image in which something was detected.

    The second generation has a row for each box, so an image can have several rows: see `group_by_image`.
    """

    created_at: UtcTime
    recorded_at: UtcTime | None = None
    azimuth: FiniteFloat | None = None
    bucket_key: str | None = None
    bboxes: str | None = None
    bbox: str | None = None
    others_bboxes: str | None = None
    url: str | None = None
    _rows: tuple["Detection", ...] = PrivateAttr(())

    def with_rows(self, rows: Iterable[Self]) -> Self:
        """Return a copy with the boxes of all rows of its image."""
        copy = self.model_copy()
        copy._rows = tuple(rows)  # noqa: SLF001 - a copy of this object
        return copy

    @property
    def generation(self) -> Generation:
        """The generation of the platform."""
        return Generation.FIRST if self.bboxes is not None else Generation.SECOND

    @property
    def predictions(self) -> ParsedBoxes:
        """The detected boxes."""
        parsed = [parse_boxes(row.bboxes if row.bboxes is not None else row.bbox) for row in self._rows or (self,)]
        distinct = dict.fromkeys(box for row in parsed for box in row.boxes)
        boxes = tuple(distinct) if self._rows else parsed[0].boxes
        return ParsedBoxes(boxes, sum(row.dropped for row in parsed))

    @property
    def own_predictions(self) -> ParsedBoxes:
        """The boxes of this row alone, which the platform followed."""
        return parse_boxes(self.bboxes if self.bboxes is not None else self.bbox)

    @property
    def other_predictions(self) -> ParsedBoxes:
        """The boxes of the image that are not this row's own, which include those of its further rows."""
        return ParsedBoxes((*parse_boxes(self.others_bboxes).boxes, *self.predictions.boxes))

    @property
    def others(self) -> ParsedBoxes:
        """The other boxes of the image, which only the second generation has."""
        parsed, own = parse_boxes(self.others_bboxes), self.predictions.boxes
        return ParsedBoxes(tuple(box for box in parsed.boxes if box not in own), parsed.dropped)


@dataclass(frozen=True, slots=True)
class SequenceData:
    """A sequence with its camera, organisation and detections; `note` says what of it could not be read.

    A sequence that `lacks_images` may be complete another time.
    """

    sequence: AlertSequence
    camera: PlatformCamera
    organisation: Organisation
    detections: Sequence[Detection]
    note: str = ""
    lacks_images: bool = False


def group_by_image(rows: Iterable[Detection]) -> list[Detection]:
    """Return one detection for each image, with the boxes of all its rows, in the order of the first rows."""
    groups: dict[object, list[Detection]] = {}
    for row in rows:
        has_shared_image = row.generation is Generation.SECOND and row.bucket_key
        groups.setdefault(row.bucket_key if has_shared_image else row.id, []).append(row)
    return [
        min(group, key=lambda row: row.id).with_rows(group) if len(group) > 1 else group[0] for group in groups.values()
    ]


class AnnotationSequence(ApiEntity):
    """A sequence in the annotation API."""

    alert_api_id: int
    source_api: str
    recorded_at: UtcTime


class PredictedBox(BaseModel):
    """A box in the annotation API."""

    xyxyn: tuple[float, float, float, float]
    confidence: float = 0.0


class AlgoPredictions(BaseModel):
    """The boxes of a detection in the annotation API."""

    predictions: list[PredictedBox] = Field(default_factory=list)


class UploadedDetection(ApiEntity):
    """A detection in the annotation API."""

    alert_api_id: int
    recorded_at: UtcTime
    bucket_key: str | None = None
    algo_predictions: AlgoPredictions | None = None
    others_bboxes: object = None

    @property
    def generation(self) -> Generation:
        """The generation of the annotation API: the first has no `others_bboxes`."""
        return Generation.SECOND if "others_bboxes" in self.model_fields_set else Generation.FIRST

    @property
    def is_stored(self) -> bool:
        """Whether its image was uploaded: the first generation commits a row with an empty key before the upload."""
        return self.bucket_key != ""

    @property
    def boxes(self) -> list[Box]:
        """Its valid boxes."""
        predictions = self.algo_predictions.predictions if self.algo_predictions else []
        boxes = [valid_box(*prediction.xyxyn, prediction.confidence) for prediction in predictions]
        return [box for box in boxes if box is not None]


class Annotation(ApiEntity):
    """The annotation of a sequence in the annotation API."""

    sequence_id: int
    annotation: dict[str, object] | None = None
    processing_stage: str


class EntityPage(BaseModel, Generic[Entity]):
    """One page of a list of the annotation API; the first page is 1."""

    items: list[Entity]
    page: int = 1
    pages: int = 1
