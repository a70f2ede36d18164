"""What an export is asked for: a selection, its split and its shards, as frozen values and as JSON. No I/O."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.events import Kind, PreprocessedFrame
from headrace.store.catalog.exports import ExportSelection

VERSION = 1
MEASURES = ("sharpness", "brightness", "dark_share", "bright_share", "width", "height")

_TERM = re.compile(r"\s*([a-z_]+)\s*(>=|<=)\s*(\d+(?:\.\d+)?)\s*")


class ExportFormat(StrEnum):
    """How the samples are written."""

    WEBDATASET = "webdataset"
    PARQUET = "parquet"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class Bound:
    """One measure of preprocessing, and what it must be at least or at most."""

    measure: str
    at_least: bool
    value: float

    def __str__(self) -> str:
        """Return it as it is written."""
        # All of its digits: what an export was asked for is compared by this.
        return f"{self.measure}{'>=' if self.at_least else '<='}{repr(self.value).removesuffix('.0')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """All that decides which bytes an export writes; times in microseconds, `validation_share` from 0 to 1."""

    format: ExportFormat
    wanted: ExportSelection
    labels: tuple[str, ...] | None = None
    quality: tuple[Bound, ...] = ()
    validation_share: float
    shard_bytes_max: int
    shard_samples_max: int

    def as_json(self) -> dict[str, Any]:
        """Return it as it stands in the target, where the next run finds it again."""
        return {
            "version": VERSION,
            "format": self.format.value,
            "selection": asdict(self.wanted),
            "labels": self.labels,
            "quality": [str(bound) for bound in self.quality],
            "validation_share": self.validation_share,
            "shard_bytes_max": self.shard_bytes_max,
            "shard_samples_max": self.shard_samples_max,
        }


def bounds_of(text: str) -> tuple[Bound, ...]:
    """Return what `sharpness>=50,dark_share<=0.4` says, in an order that does not depend on how it is written.

    Raises:
        HeadraceError: a part says no bound of a known measure.
    """
    bounds = []
    for part in text.split(","):
        found = _TERM.fullmatch(part)
        if found is None or found[1] not in MEASURES:
            raise HeadraceError(
                "filter_invalid",
                f"{part.strip()!r} is no bound of a frame's quality",
                hint=f"for example sharpness>=50,dark_share<=0.4; the measures are {', '.join(MEASURES)}",
                exit_code=Exit.USAGE,
            )
        bounds.append(Bound(found[1], found[2] == ">=", float(found[3])))
    return tuple(sorted(bounds, key=str))


def is_within(measured: PreprocessedFrame, bounds: Iterable[Bound]) -> bool:
    """Say whether a frame keeps every bound; one that could not be decoded was not measured, and keeps none."""
    return measured.error is None and all(
        getattr(measured, bound.measure) >= bound.value
        if bound.at_least
        else getattr(measured, bound.measure) <= bound.value
        for bound in bounds
    )


def check(request: ExportRequest) -> None:
    """Refuse what contradicts itself.

    Raises:
        HeadraceError.
    """
    if not 0 <= request.validation_share <= 1:
        # Of "nan" the command line's own comparison says that it is neither too small nor too large.
        raise HeadraceError(
            "option_invalid",
            f"a share of {request.validation_share} cannot be for validation",
            hint="give --validation a number from 0 to 1",
            exit_code=Exit.USAGE,
        )
    if request.quality and request.wanted.kinds != (Kind.FRAME,):
        raise HeadraceError(
            "option_invalid",
            "a bound of quality speaks of frames only",
            hint="add --kind frames",
            exit_code=Exit.USAGE,
        )
