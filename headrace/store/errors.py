"""The faults of the blob store and the catalog, by what the caller does next.

- `StoreUnavailableError`, `CatalogUnavailableError`: transient; repeat the call.
- `StoreRefusedError`, `CatalogRefusedError`: repeating does not help; an operator must act.
- `CatalogRevertedError`: the process must end; `headrace recover` mends it.
- `BlobsCollectedError`: transient too, but the batch must be prepared again: objects put, erased messages rejected.
- `BlobMissingError`, `BlobCorruptError`: no object has that key, or it holds other bytes.
- `BlobErasedError`: the bytes were erased; skip the record.
- `ClaimMissingError`, `ClaimMismatchError`: the message is at fault; it becomes a dead letter.
"""

from urllib.parse import urlsplit

from headrace.runtime.errors import Exit, HeadraceError


class StoreUnavailableError(HeadraceError):
    """The blob store did not answer, or answered with a transient error. Repeat the call."""

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(
            "store_unreachable",
            what,
            where=where,
            hint="Check that the store runs and that HEADRACE_STORE_ENDPOINT is its address.",
            exit_code=Exit.UNREACHABLE,
        )


class StoreRefusedError(HeadraceError):
    """The blob store refused: credentials, a missing bucket, a wrong key or URL. Repeating does not help."""

    def __init__(self, what: str, *, where: str, hint: str) -> None:
        super().__init__("store_refused", what, where=where, hint=hint)


class BlobMissingError(HeadraceError):
    """No object has this key."""

    def __init__(self, key: str, *, where: str) -> None:
        super().__init__(
            "blob_missing",
            f"the object {key} does not exist",
            where=where,
            hint="`headrace fsck` names every record whose bytes are gone.",
        )
        self.key = key


class BlobArchivedError(HeadraceError):
    """The bytes are in the archive, from which they must be restored first."""

    def __init__(self, digest: str, since: str) -> None:
        super().__init__(
            "blob_archived",
            f"the bytes {digest} were archived at {since}",
            hint=f"`headrace restore {digest}` brings them back.",
        )


class HeldError(HeadraceError):
    """A legal hold covers what was to be erased."""

    def __init__(self, holds: list[str]) -> None:
        super().__init__(
            "held",
            f"nothing was erased, because of a legal hold: {', '.join(holds)}",
            hint="`headrace hold ls` lists the holds; `headrace hold release` ends one.",
        )


class BlobErasedError(HeadraceError):
    """The bytes were erased, and do not come back."""

    def __init__(self, digest: str, *, where: str) -> None:
        super().__init__(
            "blob_erased",
            f"the bytes {digest} were erased",
            where=where,
            hint="Skip the record.",
        )


class BlobCorruptError(HeadraceError):
    """The bytes in the store are not those that were ingested."""

    def __init__(self, key: str, mismatch: str, *, where: str) -> None:
        super().__init__(
            "blob_corrupt",
            f"the object {key} does not have the ingested bytes: {mismatch}",
            where=where,
            hint="`headrace fsck --repair` restores it from a copy where there is one.",
        )


class ClaimMissingError(HeadraceError):
    """A message claims a staged object that does not exist."""

    def __init__(self, claim: str, *, where: str) -> None:
        super().__init__(
            "claim_missing",
            f"the claimed object {claim!r} does not exist",
            where=where,
            hint="Upload the body under staging/ before publishing the message that names it.",
        )


class ClaimMismatchError(HeadraceError):
    """The claimed bytes are not those that the message declares."""

    def __init__(self, claim: str, mismatch: str, *, where: str) -> None:
        super().__init__(
            "claim_mismatch",
            f"the claimed object {claim!r} is not what the message declares: {mismatch}",
            where=where,
            hint="Declare the size and SHA-256 of the uploaded bytes, and never overwrite a staged object.",
        )


class BlobAtSiteError(HeadraceError):
    """The bytes of a record are still at its site."""

    def __init__(self, digest: str, site: str) -> None:
        super().__init__(
            "blob_at_site",
            f"the bytes of {digest} are not here yet: they are at {site}",
            hint=f"`headrace fetch {digest}` has them brought before all others; `headrace transfer` must run.",
        )


class CatalogUnavailableError(HeadraceError):
    """PostgreSQL did not answer in time, or the connection was lost or refused. Repeat the whole call."""

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(
            "postgres_unreachable",
            what,
            where=where,
            hint="Check that PostgreSQL runs and that HEADRACE_POSTGRES_DSN is its address.",
            exit_code=Exit.UNREACHABLE,
        )


class BlobsCollectedError(CatalogUnavailableError):
    """Objects of the batch were deleted since they were put, or records were erased: prepare the batch again first."""

    def __init__(self, keys: int, *, where: str) -> None:
        super().__init__(
            f"{keys} objects of the batch are being deleted as orphans" if keys else "objects were deleted meanwhile",
            where=where,
        )


class CatalogRevertedError(HeadraceError):
    """The catalog is older than it was: a restored backup, or a standby that lagged. To go on loses messages."""

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(
            "catalog_reverted",
            f"the catalog went back in time: {what}",
            where=where,
            hint="Stop all workers and relays, then run `headrace recover`, which reads again what is missing.",
            exit_code=Exit.REVERTED,
        )


class CatalogRefusedError(HeadraceError):
    """PostgreSQL refused a statement or a login; repeating does not help. `sqlstate` is its error code."""

    def __init__(self, what: str, *, where: str, sqlstate: str = "") -> None:
        super().__init__(
            "postgres_refused",
            what,
            where=where,
            hint="Check user, password and database of HEADRACE_POSTGRES_DSN, and that its schema is current.",
        )
        self.sqlstate = sqlstate

    @property
    def is_of_data(self) -> bool:
        """Whether values of the statement are at fault: a data exception, a limit of the server, or a check."""
        return self.sqlstate[:2] in {"22", "54"} or self.sqlstate == "23514"


class CatalogOlderError(CatalogRefusedError):
    """The database lacks a table or column of this version."""

    def __init__(self, what: str, *, where: str, sqlstate: str) -> None:
        super().__init__(f"the database is older than this program: {what}", where=where, sqlstate=sqlstate)
        self.hint = "run `headrace init`, which migrates it; data stays"


class CatalogNewerError(CatalogRefusedError):
    """A newer version migrated the database."""

    def __init__(self, revision: str, newest: str, *, where: str) -> None:
        super().__init__(
            f"the database has schema {revision}, and this program knows schemas up to {newest}", where=where
        )
        self.hint = "install the version of Headrace that migrated it, or a newer one: pip install --upgrade headrace"


class RecordMissingError(HeadraceError):
    """No record has this id."""

    def __init__(self, wanted: str) -> None:
        super().__init__(
            "record_missing",
            f"no record has the id {wanted!r}",
            hint="`headrace ls` lists the newest; a record id, its beginning, a digest or an LDO id will do.",
        )


class RecordAmbiguousError(HeadraceError):
    """Several records match an abbreviated id."""

    def __init__(self, wanted: str, matches: list[str]) -> None:
        super().__init__(
            "record_ambiguous",
            f"{wanted!r} matches several records: {', '.join(matches)}",
            hint="Give more digits.",
        )


UNREADABLE = "an address that cannot be read"


def address(url: str) -> str:
    """Return a URL's scheme, host, port and path: without user, password and query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return UNREADABLE
    # Without a host the rest is not what it seems: of `user:password@host`, the path would be the password.
    if not parts.hostname and parts.scheme != "file":
        return UNREADABLE
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


class DeadLetterMissingError(HeadraceError):
    """No dead letter has this id, or begins with these digits."""

    def __init__(self, wanted: str) -> None:
        super().__init__(
            "dead_letter_missing", f"no dead letter has the id {wanted!r}", hint="`headrace dlq ls` lists them"
        )


class DeadLetterAmbiguousError(HeadraceError):
    """A prefix of an id matches several dead letters."""

    def __init__(self, wanted: str, names: list[str]) -> None:
        super().__init__(
            "dead_letter_ambiguous",
            f"{wanted!r} matches several dead letters: {', '.join(names)}",
            hint="give more digits",
        )


class RedriveRunningError(HeadraceError):
    """One redrive runs at a time."""

    def __init__(self) -> None:
        super().__init__(
            "redrive_running", "another redrive is running", hint="wait until it has ended, then run it again"
        )
