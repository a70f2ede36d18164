"""The faults of the blob store and the catalog, by what the caller does next.

- `StoreUnavailableError`, `CatalogUnavailableError`: transient; repeat the call.
- `StoreRefusedError`, `CatalogRefusedError`: repeating does not help; an operator must act.
- `BlobsCollectedError`: transient too, but the batch's objects must be put again first.
- `BlobMissingError`, `BlobCorruptError`: no object has that key, or it holds other bytes.
- `ClaimMissingError`, `ClaimMismatchError`: the message is at fault; it becomes a dead letter.
"""

from urllib.parse import urlsplit

from headrace.runtime.errors import Exit, HeadraceError


class StoreUnavailableError(HeadraceError):
    """The blob store did not answer, or answered that it cannot now. Repeat the call."""

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(
            "store_unreachable",
            what,
            where=where,
            hint="Check that the store runs and that HEADRACE_STORE_ENDPOINT is its address.",
            exit_code=Exit.UNREACHABLE,
        )


class StoreRefusedError(HeadraceError):
    """The blob store refused: credentials, no such bucket, a wrong key or URL. Repeating does not help."""

    def __init__(self, what: str, *, where: str, hint: str) -> None:
        super().__init__("store_refused", what, where=where, hint=hint)


class BlobMissingError(HeadraceError):
    """There is no object under this key."""

    def __init__(self, key: str, *, where: str) -> None:
        super().__init__(
            "blob_missing",
            f"there is no object {key}",
            where=where,
            hint="`headrace fsck` names every record whose bytes are gone.",
        )
        self.key = key


class BlobArchivedError(HeadraceError):
    """The bytes are in the archive, where they are not read from."""

    def __init__(self, digest: str, since: str) -> None:
        super().__init__(
            "blob_archived",
            f"the bytes {digest} are in the archive since {since}",
            hint=f"`headrace restore {digest}` brings them back.",
        )


class BlobCorruptError(HeadraceError):
    """The bytes in the store are not those that were ingested."""

    def __init__(self, key: str, found: str, *, where: str) -> None:
        super().__init__(
            "blob_corrupt",
            f"the object {key} does not hold the bytes that were ingested: {found}",
            where=where,
            hint="`headrace fsck --repair` restores it from a copy where there is one.",
        )


class ClaimMissingError(HeadraceError):
    """A message claims bytes that are not in the store."""

    def __init__(self, claim: str, *, where: str) -> None:
        super().__init__(
            "claim_missing",
            f"the claimed object {claim!r} is not there",
            where=where,
            hint="Upload the body under staging/ before publishing the message that names it.",
        )


class ClaimMismatchError(HeadraceError):
    """The claimed bytes are not those that the message describes."""

    def __init__(self, claim: str, found: str, *, where: str) -> None:
        super().__init__(
            "claim_mismatch",
            f"the claimed object {claim!r} is not what the message says: {found}",
            where=where,
            hint="Take size and SHA-256 of the bytes that are uploaded, and never overwrite a staged object.",
        )


class CatalogUnavailableError(HeadraceError):
    """PostgreSQL did not answer in time, or lost or refused the connection for now. Repeat the whole call."""

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(
            "postgres_unreachable",
            what,
            where=where,
            hint="Check that PostgreSQL runs and that HEADRACE_POSTGRES_DSN is its address.",
            exit_code=Exit.UNREACHABLE,
        )


class BlobsCollectedError(CatalogUnavailableError):
    """Objects of the batch were, or are being, deleted as orphans since they were put: put them again, then commit."""

    def __init__(self, keys: int, *, where: str) -> None:
        super().__init__(
            f"{keys} objects of the batch are being collected" if keys else "objects were collected meanwhile",
            where=where,
        )


class CatalogRefusedError(HeadraceError):
    """PostgreSQL refused a statement or a login. Repeating does not help; `sqlstate` says which rule it was."""

    def __init__(self, what: str, *, where: str, sqlstate: str = "") -> None:
        super().__init__(
            "postgres_refused",
            what,
            where=where,
            hint="Check user, password and database of HEADRACE_POSTGRES_DSN, and that its schema is current.",
        )
        self.sqlstate = sqlstate


class RecordMissingError(HeadraceError):
    """Nothing in the catalog has this id."""

    def __init__(self, wanted: str) -> None:
        super().__init__(
            "record_missing",
            f"no record has the id {wanted!r}",
            hint="`headrace ls` lists the newest; a record id, its beginning, a digest or an LDO id will do.",
        )


class RecordAmbiguousError(HeadraceError):
    """Several records fit a shortened id."""

    def __init__(self, wanted: str, found: list[str]) -> None:
        super().__init__(
            "record_ambiguous",
            f"{wanted!r} fits several records: {', '.join(found)}",
            hint="Give more of its digits.",
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
