"""Errors of ingesting a URL, by what the caller can do next.

IngestError                 base class; `may_pass` tells whether a retry may succeed
  UrlRefusedError           not an accepted URL: its syntax, its scheme, or credentials in it
  AddressRefusedError       the host's address is neither public nor in a listed network
  RedirectRefusedError      more than three redirects, or one to a URL that is not accepted
  OptedOutError             the host opts out: robots.txt, or a header of the answer
  HttpStatusError           the status is not 200
  AnswerRefusedError        malformed HTTP, or an unsupported encoding
  TooLargeError             the body is too large, counted after decoding
  TimedOutError             the request took too long, or the body came too slowly
  ConnectionFailedError     no address, no connection, no trusted certificate, or a lost connection
  MediaRefusedError         not an image or a video that is taken, damaged, or beyond a limit
  ArgumentRefusedError      license, source or site is not a valid name
  StoreFailedError          the blob store is unreachable or refuses
  CatalogFailedError        PostgreSQL is unreachable or refuses
"""

from headrace.runtime.errors import HeadraceError
from headrace.schemas.media.formats import TAKEN
from headrace.store.errors import CatalogRefusedError, CatalogUnavailableError, StoreRefusedError, StoreUnavailableError

_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class IngestError(HeadraceError):
    """A URL was not ingested, and nothing of it is in the catalog."""

    code_of_class = "ingest_failed"
    hint_of_class = ""

    def __init__(
        self, what: str, *, where: str = "", hint: str = "", may_pass: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(self.code_of_class, what, where=where, hint=hint or self.hint_of_class)
        self.may_pass = may_pass
        self.retry_after_s = retry_after_s


class UrlRefusedError(IngestError):
    """The text is not an accepted URL."""

    code_of_class = "url_refused"
    hint_of_class = "Give an http:// or https:// URL of up to 4096 characters, without credentials."


class AddressRefusedError(IngestError):
    """The host's address is not allowed."""

    code_of_class = "address_refused"
    hint_of_class = "To allow a private host, list its network in HEADRACE_URL_NETWORKS."


class RedirectRefusedError(IngestError):
    """The host redirects too often, or to a URL that is not accepted."""

    code_of_class = "redirect_refused"
    hint_of_class = "Give the URL of the file itself."


class OptedOutError(IngestError):
    """The host does not allow programs to fetch or use this URL."""

    code_of_class = "opted_out"
    hint_of_class = "Ask its owner; HEADRACE_URL_ROBOTS and HEADRACE_URL_OPT_OUTS set what is respected."


class HttpStatusError(IngestError):
    """The host answered with another status than 200."""

    code_of_class = "http_status"

    def __init__(self, status: int, *, where: str, retry_after_s: float | None = None) -> None:
        super().__init__(
            f"the host answered {status}",
            where=where,
            hint="Check that the URL is correct and public.",
            may_pass=status in _TRANSIENT_STATUSES,
            retry_after_s=retry_after_s,
        )
        self.status = status


class AnswerRefusedError(IngestError):
    """The HTTP answer is malformed or uses an unsupported encoding."""

    code_of_class = "answer_refused"
    hint_of_class = "The host must answer in HTTP/1.1, with no other Content-Encoding than gzip or deflate."


class TooLargeError(IngestError):
    """The body is too large."""

    code_of_class = "too_large"
    hint_of_class = "HEADRACE_URL_BYTES_MAX sets the limit."


class TimedOutError(IngestError):
    """The request timed out."""

    code_of_class = "timed_out"
    hint_of_class = "HEADRACE_URL_TOTAL_S_MAX and HEADRACE_URL_STALL_S_MAX set the time limits."


class ConnectionFailedError(IngestError):
    """The connection failed or was lost."""

    code_of_class = "connection_failed"
    hint_of_class = "Check that the host exists and its certificate is valid."


class MediaRefusedError(IngestError):
    """The bytes are not a supported image or video."""

    code_of_class = "media_refused"
    hint_of_class = f"Supported are {TAKEN}."


class ErasedError(IngestError):
    """The same bytes were erased."""

    code_of_class = "erased"
    hint_of_class = "docs/erase.md describes what an erasure keeps out."


class ArgumentRefusedError(IngestError):
    """License, source or site is invalid."""

    code_of_class = "argument_refused"
    hint_of_class = "A name has 1 to 200 bytes without control characters."


class StoreFailedError(IngestError):
    """The blob store is unreachable or refuses."""

    code_of_class = "store_failed"


class CatalogFailedError(IngestError):
    """PostgreSQL is unreachable or refuses."""

    code_of_class = "catalog_failed"


STORING_ERRORS = (CatalogUnavailableError, CatalogRefusedError, StoreUnavailableError, StoreRefusedError)


def from_storage_error(error: HeadraceError) -> IngestError:
    """Return the IngestError for an error of the store or the catalog, with its exit code."""
    kind = CatalogFailedError if isinstance(error, CatalogUnavailableError | CatalogRefusedError) else StoreFailedError
    is_unreachable = isinstance(error, CatalogUnavailableError | StoreUnavailableError)
    converted = kind(error.what, where=error.where, hint=error.hint, may_pass=is_unreachable)
    converted.exit_code = error.exit_code
    return converted
