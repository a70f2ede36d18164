"""What the two APIs answer, of both generations: only the fields that the import uses, each checked."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Generic, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, PrivateAttr

from headrace.batch.platform.boxes import Box, Parsed, good_box, parse_boxes
from headrace.batch.platform.clusters import Generation

Row = TypeVar("Row")

WILDFIRE = "wildfire_smoke"
_ID_MAX = 2**63 - 1  # what both APIs' databases, and an event, have room for


def _in_utc(time: datetime) -> datetime:
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:  # the first or the last hours that there are, said in another zone
        raise ValueError("there is no such time in UTC") from None


# The platform writes UTC without saying so.
Time = Annotated[datetime, AfterValidator(_in_utc)]


class Entity(BaseModel):
    """Something that an API answered; what it says beyond the fields is left aside."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: int = Field(ge=0, le=_ID_MAX)


class Unread(Entity):
    """A row of a list that is not what it should be; `why` says in which way."""

    why: str


class Organisation(Entity):
    """Who owns cameras."""

    name: str


class PlatformCamera(Entity):
    """A camera and where it stands, in degrees and metres."""

    organization_id: int
    name: str
    lat: FiniteFloat
    lon: FiniteFloat
    elevation: FiniteFloat | None = None
    angle_of_view: FiniteFloat | None = None


class AlertSequence(Entity):
    """Detections that belong together; `azimuth` is the first generation's name, `camera_azimuth` the second's."""

    camera_id: int
    started_at: Time
    last_seen_at: Time | None = None
    is_wildfire: str | bool | None = None
    azimuth: FiniteFloat | None = None
    camera_azimuth: FiniteFloat | None = None
    temporal_model_score: FiniteFloat | None = None
    temporal_model_version: str | None = None
    temporal_api_version: str | None = None

    @property
    def degrees(self) -> int | None:
        """Where the camera looked, 0 to 359."""
        looked = self.azimuth if self.azimuth is not None else self.camera_azimuth
        return None if looked is None else round(looked) % 360

    @property
    def wildfire_label(self) -> str | None:
        """What people said it shows; older platforms said yes or no."""
        if isinstance(self.is_wildfire, bool):
            return WILDFIRE if self.is_wildfire else "other"
        return self.is_wildfire


class Detection(Entity):
    """A picture in which something was seen.

    The second generation has a row for each box, so a picture can have several: see `pictures`.
    """

    created_at: Time
    recorded_at: Time | None = None
    azimuth: FiniteFloat | None = None
    bucket_key: str | None = None
    bboxes: str | None = None
    bbox: str | None = None
    others_bboxes: str | None = None
    url: str | None = None
    _rows: tuple["Detection", ...] = PrivateAttr(())

    def of_rows(self, rows: Iterable[Self]) -> Self:
        """Return it with the boxes of all rows that its picture has."""
        copy = self.model_copy()
        copy._rows = tuple(rows)  # noqa: SLF001 - its own
        return copy

    @property
    def generation(self) -> Generation:
        """Which generation of the platform speaks."""
        return Generation.FIRST if self.bboxes is not None else Generation.SECOND

    @property
    def predictions(self) -> Parsed:
        """The boxes of what was seen."""
        parsed = [parse_boxes(one.bboxes if one.bboxes is not None else one.bbox) for one in self._rows or (self,)]
        boxes = dict.fromkeys(box for one in parsed for box in one.boxes)
        return Parsed(tuple(boxes) if self._rows else parsed[0].boxes, sum(one.dropped for one in parsed))

    @property
    def others(self) -> Parsed:
        """The second generation's boxes of what else was seen."""
        parsed, own = parse_boxes(self.others_bboxes), self.predictions.boxes
        return Parsed(tuple(box for box in parsed.boxes if box not in own), parsed.dropped)


def pictures(rows: Iterable[Detection]) -> list[Detection]:
    """Return each picture once, with the boxes of all its rows, in the order in which they were given."""
    found: dict[object, list[Detection]] = {}
    for row in rows:
        several = row.generation is Generation.SECOND and row.bucket_key
        found.setdefault(row.bucket_key if several else row.id, []).append(row)
    return [min(same, key=lambda one: one.id).of_rows(same) if len(same) > 1 else same[0] for same in found.values()]


class Listed(Entity):
    """A sequence as the annotation API has it."""

    alert_api_id: int
    source_api: str
    recorded_at: Time


class Prediction(BaseModel):
    """A box as the annotation API has it."""

    xyxyn: tuple[float, float, float, float]
    confidence: float = 0.0


class Predictions(BaseModel):
    """The boxes of a detection."""

    predictions: list[Prediction] = Field(default_factory=list)


class UploadedDetection(Entity):
    """A detection as the annotation API has it."""

    alert_api_id: int
    recorded_at: Time
    algo_predictions: Predictions | None = None
    others_bboxes: object = None

    @property
    def generation(self) -> Generation:
        """Which generation of the annotation API speaks: the first has no such field."""
        return Generation.SECOND if "others_bboxes" in self.model_fields_set else Generation.FIRST

    @property
    def boxes(self) -> list[Box]:
        """Its boxes, without those that are none."""
        predictions = self.algo_predictions.predictions if self.algo_predictions else []
        found = [good_box(*one.xyxyn, one.confidence) for one in predictions]
        return [box for box in found if box is not None]


class Annotation(Entity):
    """A sequence's annotation as the annotation API has it."""

    sequence_id: int
    annotation: dict[str, object] | None = None
    processing_stage: str


class EntityPage(BaseModel, Generic[Row]):
    """One page of a list of the annotation API; pages are counted from 1."""

    items: list[Row]
    page: int = 1
    pages: int = 1
