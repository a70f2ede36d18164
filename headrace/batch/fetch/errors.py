"""What can go wrong with a URL, sorted by what the caller does next.

IngestError                 all of them; `may_pass` says whether another try may succeed
  UrlRefused                not a URL that is fetched: its form, its scheme, or a login in it
  AddressRefused            it leads to an address that is neither public nor in a listed network
  RedirectRefused           more than three redirects, or one that leads where none may
  OptedOut                  its host does not want it taken: robots.txt, or a header of the answer
  HttpStatus                the host answered with another status than 200
  AnswerRefused             the answer is not HTTP as it should be, or encoded in a way that was not asked for
  TooLarge                  more bytes than are taken, counted once they are decoded
  TimedOut                  it took too long, or came too slowly
  ConnectionFailed          no address, no connection, no trusted certificate, or a line that dropped
  MediaRefused              the bytes are no JPEG, PNG, WebP or MP4, or beyond a limit of those
  ArgumentRefused           license, source or site cannot be a name
  StoreFailed               the blob store is away or refuses
  CatalogFailed             PostgreSQL is away or refuses
"""

from headrace.runtime.errors import HeadraceError
from headrace.store.errors import CatalogRefusedError, CatalogUnavailableError, StoreRefusedError, StoreUnavailableError

_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})


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
    """The text is not a URL that is fetched."""

    code_of_class = "url_refused"
    hint_of_class = "Give an http:// or https:// URL of up to 4096 characters, without user and password."


class AddressRefusedError(IngestError):
    """The URL leads to an address that may not be connected to."""

    code_of_class = "address_refused"
    hint_of_class = "Where it is meant to be reached, list its network in HEADRACE_URL_NETWORKS."


class RedirectRefusedError(IngestError):
    """The host sent us on where we do not go."""

    code_of_class = "redirect_refused"
    hint_of_class = "Give the URL at which the file itself is."


class OptedOutError(IngestError):
    """The host does not want this taken by programs."""

    code_of_class = "opted_out"
    hint_of_class = "Ask its owner; HEADRACE_URL_ROBOTS and HEADRACE_URL_OPT_OUTS say what is respected."


class HttpStatusError(IngestError):
    """The host answered with another status than 200."""

    code_of_class = "http_status"

    def __init__(self, status: int, *, where: str, retry_after_s: float | None = None) -> None:
        super().__init__(
            f"the host answered {status}",
            where=where,
            hint="Look whether the URL is right and open to everybody.",
            may_pass=status in _MAY_PASS,
            retry_after_s=retry_after_s,
        )
        self.status = status


class AnswerRefusedError(IngestError):
    """The answer is not one that is read."""

    code_of_class = "answer_refused"
    hint_of_class = "The host has to answer in plain HTTP/1.1, at the most with gzip or deflate."


class TooLargeError(IngestError):
    """There are more bytes than are taken."""

    code_of_class = "too_large"
    hint_of_class = "HEADRACE_URL_BYTES_MAX says how many are taken."


class TimedOutError(IngestError):
    """It took too long."""

    code_of_class = "timed_out"
    hint_of_class = "HEADRACE_URL_TOTAL_S_MAX and HEADRACE_URL_STALL_S_MAX say how long is waited."


class ConnectionFailedError(IngestError):
    """There was no connection, or it dropped."""

    code_of_class = "connection_failed"
    hint_of_class = "Look whether the host is there and its certificate good."


class MediaRefusedError(IngestError):
    """The bytes are not an image or video that is taken."""

    code_of_class = "media_refused"
    hint_of_class = "JPEG, PNG, WebP and MP4 are taken."


class ArgumentRefusedError(IngestError):
    """What was said about a URL cannot be kept."""

    code_of_class = "argument_refused"
    hint_of_class = "A name has 1 to 200 bytes without control characters."


class StoreFailedError(IngestError):
    """The blob store is away or refuses."""

    code_of_class = "store_failed"


class CatalogFailedError(IngestError):
    """PostgreSQL is away or refuses."""

    code_of_class = "catalog_failed"


def of_storing(error: HeadraceError) -> IngestError:
    """Return the error for what the store or the catalog said; it keeps its exit code."""
    kind = CatalogFailedError if isinstance(error, CatalogUnavailableError | CatalogRefusedError) else StoreFailedError
    away = isinstance(error, CatalogUnavailableError | StoreUnavailableError)
    named = kind(error.what, where=error.where, hint=error.hint, may_pass=away)
    named.exit_code = error.exit_code
    return named


STORING_ERRORS = (CatalogUnavailableError, CatalogRefusedError, StoreUnavailableError, StoreRefusedError)
