"""Classify obstore's errors: most are of one class, whose text has the HTTP status and S3's error code."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from headrace.store.errors import BlobMissingError, StoreRefusedError, StoreUnavailableError

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
# Deletions go as DeleteObjects, whose answer has a code for each key and the status of success.
_CODE_OF_DELETION = re.compile(r'\n +code: "(\w{1,60})",\n +message: ')
_REASON = re.compile(r"kind: (Connect|Timeout|Request|Decode|Interrupted)")
# rustls names what is wrong with the store's certificate.
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w{1,60})")
_OS_CODE = re.compile(r"\(os error (\d{1,4})\)")

_TRANSIENT_CLIENT_STATUS = frozenset({408, 409, 425, 429})
# What arrived is not what was sent, says the checksum that went with it: another try sends it whole.
_CHANGED_ON_THE_WAY = frozenset({"BadDigest", "XAmzContentChecksumMismatch"})
_DENIED = "AccessDenied"
_LOCAL_REFUSALS = frozenset({1, 13, 20, 21, 30, 36})  # EPERM EACCES ENOTDIR EISDIR EROFS ENAMETOOLONG

_HINTS = {
    "NoSuchBucket": "Create the bucket, or correct HEADRACE_STORE_URL.",
    "RequestTimeTooSkewed": "Set this machine's clock: it differs from the store's by more than 15 minutes.",
}
_HINT_CREDENTIALS = "Check HEADRACE_STORE_ACCESS_KEY, HEADRACE_STORE_SECRET_KEY and what they may do."
_HINT_CERTIFICATE = "Check HEADRACE_STORE_CA_FILE, and that the certificate names the host of HEADRACE_STORE_ENDPOINT."
_HINT_OTHER = "Check HEADRACE_STORE_URL and HEADRACE_STORE_ENDPOINT."


class StoreFailure(Enum):
    """The meaning of a fault for the caller."""

    MISSING = auto()
    NOT_IMPLEMENTED = auto()
    REFUSED = auto()
    TRANSIENT = auto()


def store_failure_of(error: Exception) -> StoreFailure:
    """Classify an error of obstore; an unknown one is transient, because the bytes can be sent again."""
    text = str(error)
    status = int(match[1]) if (match := _STATUS.search(text)) else None
    os_code = int(match[1]) if (match := _OS_CODE.search(text)) else None
    if isinstance(error, FileNotFoundError):
        return StoreFailure.REFUSED if _code(text) == "NoSuchBucket" else StoreFailure.MISSING
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
        return StoreFailure.REFUSED
    if isinstance(error, NotImplementedError) or status == 501:
        return StoreFailure.NOT_IMPLEMENTED
    if _code(text) in _CHANGED_ON_THE_WAY:
        return StoreFailure.TRANSIENT
    if _CERTIFICATE.search(text) or _code(text) == _DENIED:
        return StoreFailure.REFUSED
    refused = (status is not None and 400 <= status < 500 and status not in _TRANSIENT_CLIENT_STATUS) or (
        os_code in _LOCAL_REFUSALS
    )
    return StoreFailure.REFUSED if refused or isinstance(error, ValueError) else StoreFailure.TRANSIENT


@contextmanager
def blob_errors(where: str, doing: str, *, key: str | None = None) -> Iterator[None]:
    """Translate obstore's errors into ours. `key` is the object read: without one, a missing object is a refusal.

    Raises:
        BlobMissingError: the object does not exist.
        StoreRefusedError: the store refused; repeating does not help.
        StoreUnavailableError: everything else.
    """
    try:
        yield
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        text = str(error)
        match store_failure_of(error):
            case StoreFailure.MISSING if key is not None:
                raise BlobMissingError(key, where=where) from None
            case StoreFailure.TRANSIENT:
                raise StoreUnavailableError(f"{doing} failed: {_in_short(text)}", where=where) from None
            case _:
                hint = _hint(text, error)
                raise StoreRefusedError(f"{doing} was refused: {_in_short(text)}", where=where, hint=hint) from None


def certificate_refused(where: str) -> StoreRefusedError:
    """Return the error for a store whose certificate is not trusted or names another host."""
    return StoreRefusedError("the store's certificate is not valid", where=where, hint=_HINT_CERTIFICATE)


def _in_short(text: str) -> str:
    """Return status and code, or the kind of network fault; never the text itself, which quotes the request."""
    if status := _STATUS.search(text):
        return f"the store answered {status[1]} {_code(text)}".rstrip()
    if code := _code(text):
        return f"the store answered {code}"
    if certificate := _CERTIFICATE.search(text):
        return f"the store's certificate is not valid: {certificate[1]}"
    if os_code := _OS_CODE.search(text):
        return f"the operating system answered error {os_code[1]}"
    if reason := _REASON.search(text):
        return {"Connect": "no connection", "Timeout": "no answer in time"}.get(reason[1], "the connection broke")
    return "the store's client failed"


def _code(text: str) -> str:
    match = _CODE.search(text) or _CODE_OF_DELETION.search(text)
    return match[1] if match else ""


def _hint(text: str, error: Exception) -> str:
    if hint := _HINTS.get(_code(text)):
        return hint
    if _CERTIFICATE.search(text):
        return _HINT_CERTIFICATE
    refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or "status code: 403" in text
    refused = refused or _code(text) == _DENIED
    return _HINT_CREDENTIALS if refused else _HINT_OTHER
