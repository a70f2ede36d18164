"""What the caller declares of a file when its resumable upload begins, kept until its last byte is there."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

import orjson

from headrace.gateway.problems import Problem
from headrace.gateway.uploads.metadata import required_time_us
from headrace.gateway.uploads.multipart_parser import FILENAME_CHARACTERS_MAX
from headrace.gateway.uploads.publish import display_name
from headrace.schemas.digest import is_digest
from headrace.schemas.reject import RejectCode
from headrace.schemas.validate import check_captured_at, check_code


@dataclass(frozen=True, slots=True)
class Declared:
    """What is said of a file; `given` is Upload-Metadata as it came, which HEAD has to repeat."""

    filename: str | None
    about: str | None
    sha256: str | None
    captured_at_us: int | None
    given: str

    @classmethod
    def of(cls, pairs: Mapping[str, str], given: str) -> Self:
        """Read it, and refuse now what would be refused once 2 GiB have come.

        Raises:
            Problem, Rejected: a value is not usable.
        """
        digest = pairs.get("sha256") or None
        if digest is not None and not is_digest(digest):
            raise Problem(422, RejectCode.MALFORMED_DIGEST, "sha256 is not 64 lower-case hexadecimal digits")
        about = pairs.get("about") or None
        if about is not None:
            check_code(about, "about")
        filename = pairs.get("filename", "")[:FILENAME_CHARACTERS_MAX]
        return cls(display_name(filename), about, digest, _captured_at_us(pairs.get("captured_at")), given)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` made into text."""
        return cls(**orjson.loads(text))

    def to_json(self) -> str:
        """Return it as it is kept."""
        return orjson.dumps(asdict(self)).decode()

    def check(self, digest: str) -> None:
        """Compare the digest that was declared with that of what came.

        Raises:
            Problem: they differ (422).
        """
        if self.sha256 not in {None, digest}:
            raise Problem(
                422,
                RejectCode.DIGEST_MISMATCH,
                f"the SHA-256 of what came is {digest}, declared {self.sha256}",
                hint="begin a new upload: nothing of this one was kept",
            )


def _captured_at_us(text: str | None) -> int | None:
    if not text:
        return None
    found = required_time_us(text, "captured_at")
    check_captured_at(found, time.time_ns() // 1000)
    return found
