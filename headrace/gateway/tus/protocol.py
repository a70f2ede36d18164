"""The headers of tus 1.0.0 (https://tus.io/protocols/resumable-upload). No I/O."""

import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from email.utils import formatdate
from hashlib import sha1, sha256
from typing import Any, Self

import orjson
from starlette.datastructures import Headers

from headrace.gateway.credential_filter import refuse_credentials
from headrace.gateway.problems import Problem, ProblemCode
from headrace.gateway.uploads.metadata import required_time_us
from headrace.gateway.uploads.multipart_parser import FILENAME_CHARACTERS_MAX
from headrace.gateway.uploads.publish import display_name
from headrace.schemas.digest import is_digest
from headrace.schemas.limits import CLIP_BYTES_MAX, KIB
from headrace.schemas.reject import RejectCode
from headrace.schemas.validate import check_captured_at, check_code

VERSION = "1.0.0"
CONTENT_TYPE = "application/offset+octet-stream"
EXTENSIONS = "creation,creation-with-upload,termination,checksum,expiration"
ALGORITHMS: dict[str, Callable[[], Any]] = {"sha1": lambda: sha1(usedforsecurity=False), "sha256": sha256}
METADATA_CHARACTERS_MAX = 16 * KIB
PAIRS_MAX = 64

_DIGITS = re.compile(r"[0-9]{1,18}")
_KEY = re.compile(r"[!-+\--~]{1,200}")  # ASCII without space and comma


@dataclass(frozen=True, slots=True)
class Checksum:
    """The checksum of the body of a PATCH request."""

    algorithm: str
    digest: bytes

    def new(self) -> Any:
        """Return a new hash object of the algorithm."""
        return ALGORITHMS[self.algorithm]()

    def check(self, digest: Any) -> None:
        """Compare the checksum with the digest of the received bytes.

        Raises:
            Problem: they differ (460).
        """
        if digest.digest() != self.digest:
            raise Problem(460, ProblemCode.CHECKSUM_MISMATCH, "the body does not match Upload-Checksum")


def capabilities_headers() -> dict[str, str]:
    """Return the headers of the response to OPTIONS."""
    return {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(CLIP_BYTES_MAX),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }


def require_version(headers: Headers) -> None:
    """Require `Tus-Resumable: 1.0.0`.

    Raises:
        Problem: the header is missing or has another version (412).
    """
    if headers.get("tus-resumable") != VERSION:
        raise Problem(
            412,
            ProblemCode.PRECONDITION_FAILED,
            f"the header `Tus-Resumable: {VERSION}` is required",
            headers={"Tus-Version": VERSION},
        )


def require_content_type(headers: Headers) -> None:
    """Require `Content-Type: application/offset+octet-stream`.

    Raises:
        Problem: the body has another media type (415).
    """
    if headers.get("content-type", "").split(";")[0].strip().lower() != CONTENT_TYPE:
        raise Problem(415, ProblemCode.UNSUPPORTED_MEDIA_TYPE, f"the Content-Type must be {CONTENT_TYPE}")


def length_of(headers: Headers) -> int:
    """Return the length of the file.

    Raises:
        Problem: Upload-Length is missing (411) or not a number (400), or the file is empty (422) or too large (413).
    """
    if "upload-length" not in headers:
        raise Problem(411, ProblemCode.LENGTH_REQUIRED, "Upload-Length is required")
    if "upload-defer-length" in headers:
        raise Problem(400, ProblemCode.BAD_REQUEST, "Upload-Defer-Length is not supported")
    length = _number(headers, "upload-length")
    if length > CLIP_BYTES_MAX:
        raise Problem(413, ProblemCode.TOO_LARGE, f"the file has {length} bytes; the limit is {CLIP_BYTES_MAX}")
    if not length:
        raise Problem(422, ProblemCode.INVALID, "the file is empty")
    return length


def offset_of(headers: Headers) -> int:
    """Return the offset of the bytes.

    Raises:
        Problem: Upload-Offset is missing or not a number (400).
    """
    if "upload-offset" not in headers:
        raise Problem(400, ProblemCode.BAD_REQUEST, "Upload-Offset is required")
    return _number(headers, "upload-offset")


def body_bytes_of(headers: Headers) -> int | None:
    """Return the length of the body, or None where it is unknown."""
    if "content-length" in headers:
        return _number(headers, "content-length")
    return None if "transfer-encoding" in headers else 0


def checksum_of(headers: Headers) -> Checksum | None:
    """Return the checksum of the body, or None.

    Raises:
        Problem: the algorithm is not supported, or the value is malformed (400).
    """
    given = headers.get("upload-checksum")
    if given is None:
        return None
    algorithm, _, text = given.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise Problem(
            400, ProblemCode.BAD_REQUEST, f"the algorithm of Upload-Checksum must be one of {', '.join(ALGORITHMS)}"
        )
    digest = _decoded(text, "Upload-Checksum")
    if len(digest) != ALGORITHMS[algorithm]().digest_size:
        raise Problem(400, ProblemCode.BAD_REQUEST, f"Upload-Checksum is not a {algorithm} digest")
    return Checksum(algorithm, digest)


def metadata_of(headers: Headers) -> dict[str, str]:
    """Return the pairs of Upload-Metadata.

    Raises:
        Problem: it is too large, malformed, has duplicate keys or values that are not UTF-8 (400); it holds credentials
            (422).
    """
    given = headers.get("upload-metadata", "").strip()
    if len(given) > METADATA_CHARACTERS_MAX or given.count(",") >= PAIRS_MAX:
        raise Problem(
            400,
            ProblemCode.BAD_REQUEST,
            f"Upload-Metadata has more than {METADATA_CHARACTERS_MAX} characters or {PAIRS_MAX} pairs",
        )
    pairs: dict[str, str] = {}
    for pair in given.split(",") if given else ():
        key, _, text = pair.strip().partition(" ")
        if not _KEY.fullmatch(key) or key in pairs:
            raise Problem(400, ProblemCode.BAD_REQUEST, "a key of Upload-Metadata is invalid or a duplicate")
        try:
            pairs[key] = _decoded(text, "Upload-Metadata").decode()
        except UnicodeDecodeError:
            raise Problem(400, ProblemCode.BAD_REQUEST, "a value of Upload-Metadata is not UTF-8") from None
    refuse_credentials(pairs, "Upload-Metadata")
    return pairs


def expires(at_s: float) -> str:
    """Return the value of Upload-Expires."""
    return formatdate(at_s, usegmt=True)


def _number(headers: Headers, name: str) -> int:
    text = headers[name].strip()
    if not _DIGITS.fullmatch(text):
        raise Problem(400, ProblemCode.BAD_REQUEST, f"{name.title()} must be a number of bytes")
    return int(text)


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, ProblemCode.BAD_REQUEST, f"{name} must be Base64") from None


@dataclass(frozen=True, slots=True)
class DeclaredFile:
    """What the client declares of a file when it creates the upload; `given` is Upload-Metadata, which HEAD repeats."""

    filename: str | None
    about: str | None
    sha256: str | None
    captured_at_us: int | None
    given: str

    @classmethod
    def of(cls, pairs: Mapping[str, str], given: str) -> Self:
        """Parse Upload-Metadata, so that an invalid value is rejected before the bytes are sent.

        Raises:
            Problem, RejectedError: a value is invalid.
        """
        digest = pairs.get("sha256") or None
        if digest is not None and not is_digest(digest):
            raise Problem(422, RejectCode.MALFORMED_DIGEST, "sha256 must be 64 lower-case hexadecimal digits")
        about = pairs.get("about") or None
        if about is not None:
            check_code(about, "about")
        filename = pairs.get("filename", "")[:FILENAME_CHARACTERS_MAX]
        return cls(display_name(filename), about, digest, _captured_at_us(pairs.get("captured_at")), given)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the text of `to_json`."""
        return cls(**orjson.loads(text))

    def to_json(self) -> str:
        """Return the JSON text for the catalog."""
        return orjson.dumps(asdict(self)).decode()

    def check(self, digest: str) -> None:
        """Compare the declared digest with that of the received bytes.

        Raises:
            Problem: they differ (422).
        """
        if self.sha256 not in {None, digest}:
            raise Problem(
                422,
                RejectCode.DIGEST_MISMATCH,
                f"the SHA-256 of the file is {digest}, declared {self.sha256}",
                hint="begin a new upload",
            )


def _captured_at_us(text: str | None) -> int | None:
    if not text:
        return None
    captured_at_us = required_time_us(text, "captured_at")
    check_captured_at(captured_at_us, time.time_ns() // 1000)
    return captured_at_us
