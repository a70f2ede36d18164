"""What tus 1.0.0 says in headers (https://tus.io/protocols/resumable-upload), read and refused. No I/O."""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from hashlib import sha1, sha256
from typing import Any

from starlette.datastructures import Headers

from headrace.gateway.credential_filter import refuse_credentials
from headrace.gateway.problems import Problem, ProblemCode
from headrace.schemas.limits import CLIP_BYTES_MAX, KIB

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
    """What the bytes of one PATCH must hash to."""

    algorithm: str
    digest: bytes

    def new(self) -> Any:
        """Return a hash of that algorithm."""
        return ALGORITHMS[self.algorithm]()

    def check(self, digest: Any) -> None:
        """Compare it with what came.

        Raises:
            Problem: they differ (460).
        """
        if digest.digest() != self.digest:
            raise Problem(460, ProblemCode.CHECKSUM_MISMATCH, f"the {self.algorithm} of what came is another")


def capabilities_headers() -> dict[str, str]:
    """Return what OPTIONS answers."""
    return {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(CLIP_BYTES_MAX),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }


def require_version(headers: Headers) -> None:
    """Let through who speaks this version.

    Raises:
        Problem: another version, or none, is named (412).
    """
    if headers.get("tus-resumable") != VERSION:
        raise Problem(
            412,
            ProblemCode.PRECONDITION_FAILED,
            f"this is tus {VERSION}: send `Tus-Resumable: {VERSION}`",
            headers={"Tus-Version": VERSION},
        )


def require_content_type(headers: Headers) -> None:
    """Let through bytes of an upload.

    Raises:
        Problem: they come as something else (415).
    """
    if headers.get("content-type", "").split(";")[0].strip().lower() != CONTENT_TYPE:
        raise Problem(415, ProblemCode.UNSUPPORTED_MEDIA_TYPE, f"the bytes of an upload come as {CONTENT_TYPE}")


def length_of(headers: Headers) -> int:
    """Return how large the file will be.

    Raises:
        Problem: that is not said (411) or not a number (400), or the file is empty (422) or too large (413).
    """
    if "upload-length" not in headers:
        raise Problem(411, ProblemCode.LENGTH_REQUIRED, "Upload-Length has to say how large the file is")
    if "upload-defer-length" in headers:
        raise Problem(400, ProblemCode.BAD_REQUEST, "the length of an upload has to be known when it begins")
    length = _number(headers, "upload-length")
    if length > CLIP_BYTES_MAX:
        raise Problem(413, ProblemCode.TOO_LARGE, f"the file has {length} bytes, at most {CLIP_BYTES_MAX} are taken")
    if not length:
        raise Problem(422, ProblemCode.INVALID, "the file is empty")
    return length


def offset_of(headers: Headers) -> int:
    """Return from where on the bytes are.

    Raises:
        Problem: that is not said, or not a number (400).
    """
    if "upload-offset" not in headers:
        raise Problem(400, ProblemCode.BAD_REQUEST, "Upload-Offset has to say from where on the bytes are")
    return _number(headers, "upload-offset")


def body_bytes_of(headers: Headers) -> int | None:
    """Return how many bytes come; None where that is not said."""
    if "content-length" in headers:
        return _number(headers, "content-length")
    return None if "transfer-encoding" in headers else 0


def checksum_of(headers: Headers) -> Checksum | None:
    """Return the checksum of the bytes that come; None where there is none.

    Raises:
        Problem: it is of an algorithm that is not known, or cannot be read (400).
    """
    given = headers.get("upload-checksum")
    if given is None:
        return None
    algorithm, _, text = given.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise Problem(
            400, ProblemCode.BAD_REQUEST, f"the algorithm of Upload-Checksum is none of {', '.join(ALGORITHMS)}"
        )
    digest = _decoded(text, "Upload-Checksum")
    if len(digest) != ALGORITHMS[algorithm]().digest_size:
        raise Problem(400, ProblemCode.BAD_REQUEST, f"Upload-Checksum is no digest of {algorithm}")
    return Checksum(algorithm, digest)


def metadata_of(headers: Headers) -> dict[str, str]:
    """Return the pairs of Upload-Metadata.

    Raises:
        Problem: it is too large, malformed, names a key twice, or a value is not UTF-8 (400); it holds a login (422).
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
            raise Problem(400, ProblemCode.BAD_REQUEST, "a key of Upload-Metadata is not ASCII, or comes twice")
        try:
            pairs[key] = _decoded(text, "Upload-Metadata").decode()
        except UnicodeDecodeError:
            raise Problem(400, ProblemCode.BAD_REQUEST, "a value of Upload-Metadata is not UTF-8") from None
    refuse_credentials(pairs, "Upload-Metadata")
    return pairs


def expires(at_s: float) -> str:
    """Return a time as Upload-Expires shows it."""
    return formatdate(at_s, usegmt=True)


def _number(headers: Headers, name: str) -> int:
    text = headers[name].strip()
    if not _DIGITS.fullmatch(text):
        raise Problem(400, ProblemCode.BAD_REQUEST, f"{name.title()} is not a whole number of bytes")
    return int(text)


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, ProblemCode.BAD_REQUEST, f"{name} is not Base64") from None
