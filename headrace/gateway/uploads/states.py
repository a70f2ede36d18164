"""How the items of a request stand, and so the request. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.store.requests.ingest_status import IngestStatus
from headrace.store.requests.requests import RequestItem


@dataclass(frozen=True, slots=True)
class ItemStatus:
    """An item and what became of it; `code` says why it failed."""

    item: RequestItem
    ingested: bool
    code: str | None
    reason: str | None

    @classmethod
    def of(cls, item: RequestItem, outcome: IngestStatus | None) -> "ItemStatus":
        """Join what was known when it was taken with what is known now."""
        if outcome is None:
            return cls(item, ingested=False, code=item.code, reason=item.reason)
        return cls(item, outcome.ingested, outcome.code, outcome.reason)


def state_of(shown: Sequence[ItemStatus]) -> str:
    """Return an upload's state: uploading while anything is on its way, then ingested, partial or failed."""
    if any(not one.ingested and one.code is None for one in shown):
        return "uploading"
    good = sum(one.ingested for one in shown)
    if good == len(shown):
        return "ingested"
    return "partial" if good else "failed"
