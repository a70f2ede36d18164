"""What the two APIs answer, of both generations: only the fields that the import uses, each checked."""

from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from batch.platform.boxes import Box, Parsed, good_box, parse_boxes
from batch.platform.clusters import Generation

Row = TypeVar("Row")


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


# The platform writes UTC without saying so.
Time = Annotated[datetime, AfterValidator(_in_utc)]


class Entity(BaseModel):
    """Something that an API answered; what it says beyond the fields is left aside."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: int


class Organisation(Entity):
    """Who owns cameras."""

    name: str


class Camera(Entity):
    """A camera and where it stands, in degrees and metres."""

    organization_id: int
    name: str
    lat: float
    lon: float
    elevation: float | None = None
    angle_of_view: float | None = None


class Sequence(Entity):
    """Detections that belong together; `azimuth` is the first generation's name, `camera_azimuth` the second's."""

    camera_id: int
    started_at: Time
    last_seen_at: Time | None = None
    is_wildfire: str | bool | None = None
    azimuth: float | None = None
    camera_azimuth: float | None = None
    temporal_model_score: float | None = None
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
            return "wildfire_smoke" if self.is_wildfire else "other"
        return self.is_wildfire


class Detection(Entity):
    """A picture in which something was seen."""

    created_at: Time
    recorded_at: Time | None = None
    azimuth: float | None = None
    bboxes: str | None = None
    bbox: str | None = None
    others_bboxes: str | None = None
    url: str | None = None

    @property
    def generation(self) -> Generation:
        """Which generation of the platform speaks."""
        return Generation.FIRST if self.bboxes is not None else Generation.SECOND

    @property
    def predictions(self) -> Parsed:
        """The boxes of what was seen."""
        return parse_boxes(self.bboxes if self.bboxes is not None else self.bbox)

    @property
    def others(self) -> Parsed:
        """The second generation's boxes of what else was seen."""
        return parse_boxes(self.others_bboxes)


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


class Uploaded(Entity):
    """A detection as the annotation API has it."""

    alert_api_id: int
    recorded_at: Time
    algo_predictions: Predictions | None = None

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
    confidence_threshold: float | None = None
    iou_threshold: float | None = None
    min_cluster_size: int | None = None


class Page(BaseModel, Generic[Row]):
    """One page of a list of the annotation API; pages are counted from 1."""

    items: list[Row]
    page: int = 1
    pages: int = 1
