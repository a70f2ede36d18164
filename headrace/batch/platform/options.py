"""What a run of the import is told to do, and the services that it uses."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Protocol, TypeAlias

from headrace.batch.platform.alerts import AlertApi
from headrace.batch.platform.annotations import AnnotationApi
from headrace.batch.platform.boxes import Cluster, ClusterRule
from headrace.batch.platform.state import ImportState
from headrace.schemas.events import Origin

SEQUENCES = "sequences"
FRAMES = "frames"

# Publishes an image with its origin and attributes, and returns once Kafka has acknowledged it.
PublishFrame: TypeAlias = Callable[[bytes, Origin, bytes], Awaitable[None]]


class ImageTransfer(StrEnum):
    """How an image reaches the annotation API; the first generation only takes uploads."""

    UPLOAD = "upload"
    BUCKET_COPY = "bucket-copy"  # it copies the object from the platform's bucket
    URL = "url"  # it downloads the platform's URL


class ProgressBars(Protocol):
    """Shows the progress of a run, one bar for each kind of item."""

    def expect(self, what: str, number: int) -> None:
        """Increase the total of a bar."""

    def advance(self, what: str) -> None:
        """Advance a bar by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What to import; days include both ends, `source` is the annotation API's name of the platform.

    `only` restricts the import to these sequences of the platform, `sequences_max` to the first of them; 0 is all.
    """

    first: date
    last: date
    source: str
    rule: ClusterRule = field(default_factory=ClusterRule)
    detections_max: int = 30
    newest_first: bool = False
    dry_run: bool = False
    keep_annotated: bool = False
    workers: int = 4
    only: frozenset[int] = frozenset()
    sequences_max: int = 0
    transfer: ImageTransfer = ImageTransfer.UPLOAD


@dataclass(frozen=True, slots=True)
class ImportDeps:
    """The services of a run; without `alerts` it annotates again the sequences that the annotation API has."""

    alerts: AlertApi | None
    annotations: AnnotationApi
    publish: PublishFrame | None
    state: ImportState | None


@dataclass(frozen=True, slots=True)
class PlannedAnnotation:
    """An annotation that a dry run would write; ids are those of the API that the sequence was read from."""

    sequence_id: int
    clusters: tuple[Cluster, ...]
