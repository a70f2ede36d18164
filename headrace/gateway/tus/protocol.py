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
from urllib.parse import urljoin, urlsplit
from uuid import UUID, uuid5

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
EXTENSIONS = "creation,creation-with-upload,creation-defer-length,termination,checksum,expiration,concatenation"
HEADERS = frozenset(
    {
        *("upload-length", "upload-offset", "upload-metadata", "upload-checksum"),
        *("upload-defer-length", "upload-concat"),
    }
)
"""The request headers of the protocol and of the extensions that are offered."""
ALGORITHMS: dict[str, Callable[[], Any]] = {"sha1": lambda: sha1(usedforsecurity=False), "sha256": sha256}
METADATA_CHARACTERS_MAX = 16 * KIB
PAIRS_MAX = 64

_DIGITS = re.compile(r"[0-9]{1,18}")
_PARTIAL = "partial"
_FINAL = "final;"
_FINAL_IDS = UUID("5c2b5f0e-7a0c-4d0e-9a55-0d6f3c8f1a42")
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


def check_protocol(headers: Headers) -> None:
    """Require `Tus-Resumable: 1.0.0`, and refuse headers of extensions that are not offered.

    They change what a request means, so it must not be handled without them.

    Raises:
        Problem: the version is missing or another one (412), or a header is not known (400).
    """
    if headers.get("tus-resumable") != VERSION:
        raise Problem(
            412,
            ProblemCode.PRECONDITION_FAILED,
            f"the header `Tus-Resumable: {VERSION}` is required",
            headers={"Tus-Version": VERSION},
        )
    for name in headers:
        if name.startswith("upload-") and name not in HEADERS:
            raise _not_offered(name.title())
    if any(name.strip().lower() in HEADERS for name in headers.get("trailer", "").split(",")):
        raise _not_offered("Trailer")


def _not_offered(name: str) -> Problem:
    return Problem(
        400,
        ProblemCode.BAD_REQUEST,
        f"{name} belongs to an extension that is not offered",
        hint=f"the extensions are {EXTENSIONS}",
    )


def require_content_type(headers: Headers) -> None:
    """Require `Content-Type: application/offset+octet-stream`.

    Raises:
        Problem: the body has another media type (415).
    """
    if headers.get("content-type", "").split(";")[0].strip().lower() != CONTENT_TYPE:
        raise Problem(415, ProblemCode.UNSUPPORTED_MEDIA_TYPE, f"the Content-Type must be {CONTENT_TYPE}")


def length_of(headers: Headers, *, is_partial: bool = False) -> int | None:
    """Return the length of a new upload, or None if it is deferred.

    Raises:
        Problem: Upload-Length and Upload-Defer-Length are missing (411), both there or malformed (400); the file is
            empty (422) or too large (413).
    """
    if "upload-defer-length" in headers:
        if headers["upload-defer-length"].strip() != "1" or "upload-length" in headers:
            raise Problem(400, ProblemCode.BAD_REQUEST, "Upload-Defer-Length must be 1, and excludes Upload-Length")
        return None
    length = later_length_of(headers, is_partial=is_partial)
    if length is None:
        raise Problem(411, ProblemCode.LENGTH_REQUIRED, "Upload-Length or Upload-Defer-Length is required")
    return length


def later_length_of(headers: Headers, *, is_partial: bool) -> int | None:
    """Return the length that a request sets, or None; raises as `length_of`. Only a partial upload may be empty."""
    if "upload-length" not in headers:
        return None
    length = _number(headers, "upload-length")
    check_length(length, is_partial=is_partial)
    return length


def check_length(length: int, *, is_partial: bool = False) -> None:
    """Check the length of a file.

    Raises:
        Problem: it is too large (413), or empty (422) where it is no partial upload.
    """
    if length > CLIP_BYTES_MAX:
        raise Problem(413, ProblemCode.TOO_LARGE, f"the file has {length} bytes; the limit is {CLIP_BYTES_MAX}")
    if not length and not is_partial:
        raise Problem(422, ProblemCode.INVALID, "the file is empty")


@dataclass(frozen=True, slots=True)
class Concat:
    """Upload-Concat as given: `partial`, or `final` with the ids of the partial uploads in their order."""

    given: str
    partials: tuple[UUID, ...]

    @property
    def is_partial(self) -> bool:
        """Whether the upload is a part of a final one."""
        return not self.partials

    def final_id(self, actor: str, metadata: str) -> UUID:
        """Return the id of the final upload; a repeated request is for the same one."""
        return uuid5(_FINAL_IDS, "\n".join([actor, *map(str, self.partials), metadata]))


def concat_of(headers: Headers, path: str) -> Concat | None:
    """Return Upload-Concat, or None; `path` is that of the route, below which the partial uploads are.

    Raises:
        Problem: it is malformed, names something else, or comes with a header that it excludes (400); it holds
            credentials (422).
    """
    given = headers.get("upload-concat")
    if given is None:
        return None
    given = given.strip()
    if given == _PARTIAL:
        return Concat(given, ())
    urls = given.removeprefix(_FINAL).split()
    if not given.startswith(_FINAL) or not urls:
        raise Problem(
            400, ProblemCode.BAD_REQUEST, "Upload-Concat must be `partial`, or `final;` and URLs of partial uploads"
        )
    refuse_credentials(urls, "Upload-Concat")
    for name in ("upload-length", "upload-defer-length"):
        if name in headers:
            raise Problem(400, ProblemCode.BAD_REQUEST, f"a final upload must not have {name.title()}")
    if body_bytes_of(headers) != 0:
        raise Problem(400, ProblemCode.BAD_REQUEST, "a final upload must not have a body")
    return Concat(given, tuple(_upload_id(url, path) for url in urls))


def _upload_id(url: str, path: str) -> UUID:
    """Return the id in the URL of an upload, which may be relative, or have the prefix of a proxy."""
    try:
        folder, _, name = urlsplit(urljoin(path, url)).path.rpartition("/")
        if folder.endswith(path):
            return UUID(name)
    except ValueError:
        pass
    raise Problem(400, ProblemCode.BAD_REQUEST, "Upload-Concat has a URL that is not that of an upload")


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
    concat: str | None = None
    partials: tuple[str, ...] = ()

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
        """Return the JSON text for the catalog, whose statements read `concat` and `partials`."""
        fields = asdict(self)
        if self.concat is None:
            del fields["concat"], fields["partials"]
        return orjson.dumps(fields).decode()

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
