"""Which split a record belongs to, what its shards are called, and when one is full. Pure."""

from dataclasses import dataclass
from enum import StrEnum

_SPLIT_DIGITS = 13  # 52 bits, which a float holds exactly


class Split(StrEnum):
    """What a sample is for."""

    TRAIN = "train"
    VALIDATION = "validation"


def split_of(digest: str, clip_sha256: str | None, validation_share: float) -> Split:
    """Return the split of a record; the same bytes are in the same one, in every export of the same share.

    An LDO goes with the clip that it names, ingested or not: else a model would be validated on a clip that it was
    trained on.
    """
    at = int((clip_sha256 or digest)[:_SPLIT_DIGITS], 16) / 16**_SPLIT_DIGITS
    return Split.VALIDATION if at < validation_share else Split.TRAIN


def shard_name(split: Split, number: int, suffix: str) -> str:
    """Return the name of a shard; six digits sort as the numbers do, and braces expand to them."""
    return f"{split}-{number:06d}.{suffix}"


@dataclass
class Filled:
    """How far one shard is filled."""

    bytes_max: int
    samples_max: int
    bytes: int = 0
    samples: int = 0

    def has_room(self, size_bytes: int) -> bool:
        """Say whether a sample goes in; the first one always does, however large it is."""
        return not self.samples or (self.samples < self.samples_max and self.bytes + size_bytes <= self.bytes_max)

    def add(self, size_bytes: int) -> None:
        """Count a sample."""
        self.bytes += size_bytes
        self.samples += 1
