"""An export's request: the selection, its split and the limits of its shards, as values and as JSON. Pure."""

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

_BOUND = re.compile(r"\s*([a-z_]+)\s*(>=|<=)\s*(\d+(?:\.\d+)?)\s*")
_SPLIT_DIGITS = 13  # 52 bits, which a float represents exactly


class ExportFormat(StrEnum):
    """The file format of the shards."""

    WEBDATASET = "webdataset"
    PARQUET = "parquet"
    JSONL = "jsonl"


class Split(StrEnum):
    """The purpose of a sample."""

    TRAIN = "train"
    VALIDATION = "validation"


@dataclass(frozen=True, slots=True)
class QualityBound:
    """A lower or upper bound of a measure of preprocessing."""

    measure: str
    at_least: bool
    value: float

    def __str__(self) -> str:
        """Return the bound as text, with all digits, since requests are compared by it."""
        return f"{self.measure}{'>=' if self.at_least else '<='}{repr(self.value).removesuffix('.0')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """Everything that determines the bytes of an export; times in microseconds, `validation_share` from 0 to 1."""

    format: ExportFormat
    wanted: ExportSelection
    labels: tuple[str, ...] | None = None
    quality: tuple[QualityBound, ...] = ()
    validation_share: float
    shard_bytes_max: int
    shard_samples_max: int

    def as_json(self) -> dict[str, Any]:
        """Return the request as the target stores it, where the next run reads it."""
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


def split_of(digest: str, clip_sha256: str | None, validation_share: float) -> Split:
    """Return the split of a record; the same bytes are in the same split in every export with the same share.

    The clip that an LDO names determines its split, whether it is ingested or not. Otherwise a model could be validated
    on a clip that it was trained on.
    """
    position = int((clip_sha256 or digest)[:_SPLIT_DIGITS], 16) / 16**_SPLIT_DIGITS
    return Split.VALIDATION if position < validation_share else Split.TRAIN


def shard_name(split: Split, number: int, suffix: str) -> str:
    """Return the name of a shard; with six digits, names sort as numbers and brace expansion matches them."""
    return f"{split}-{number:06d}.{suffix}"


@dataclass
class ShardFill:
    """The size of a shard so far, and its limits."""

    bytes_max: int
    samples_max: int
    bytes: int = 0
    samples: int = 0

    def fits(self, size_bytes: int) -> bool:
        """Return whether a sample fits; the first one always does, whatever its size."""
        return not self.samples or (self.samples < self.samples_max and self.bytes + size_bytes <= self.bytes_max)

    def add(self, size_bytes: int) -> None:
        """Count a sample."""
        self.bytes += size_bytes
        self.samples += 1


def parse_bounds(text: str) -> tuple[QualityBound, ...]:
    """Parse bounds like `sharpness>=50,dark_share<=0.4`, and return them in a canonical order.

    Raises:
        HeadraceError: a part is not a bound of a known measure.
    """
    bounds = []
    for part in text.split(","):
        match = _BOUND.fullmatch(part)
        if match is None or match[1] not in MEASURES:
            raise HeadraceError(
                "filter_invalid",
                f"{part.strip()!r} is not a bound of a frame's quality",
                hint=f"for example sharpness>=50,dark_share<=0.4; the measures are {', '.join(MEASURES)}",
                exit_code=Exit.USAGE,
            )
        bounds.append(QualityBound(match[1], match[2] == ">=", float(match[3])))
    return tuple(sorted(bounds, key=str))


def is_within(measured: PreprocessedFrame, bounds: Iterable[QualityBound]) -> bool:
    """Return whether a frame meets every bound; one that could not be decoded has no measures and meets none."""
    return measured.error is None and all(
        getattr(measured, bound.measure) >= bound.value
        if bound.at_least
        else getattr(measured, bound.measure) <= bound.value
        for bound in bounds
    )


def validate_request(request: ExportRequest) -> None:
    """Check that the options of a request are consistent.

    Raises:
        HeadraceError: they are not.
    """
    if not 0 <= request.validation_share <= 1:
        # NaN passes the range check of the command line.
        raise HeadraceError(
            "option_invalid",
            f"the validation share {request.validation_share} is out of range",
            hint="give --validation a number from 0 to 1",
            exit_code=Exit.USAGE,
        )
    if request.quality and request.wanted.kinds != (Kind.FRAME,):
        raise HeadraceError(
            "option_invalid",
            "quality bounds apply to frames only",
            hint="add --kind frames",
            exit_code=Exit.USAGE,
        )
