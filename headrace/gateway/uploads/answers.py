"""What answers say of something's state."""

from headrace.gateway.problems import Problem
from headrace.store.requests.ingest_status import IngestStatus


def status_of(outcome: IngestStatus) -> str:
    """Return `ingested`, or `accepted` while that is not known yet.

    Raises:
        Problem: it can never be ingested (422).
    """
    if outcome.code is not None:
        raise Problem(422, outcome.code, outcome.reason or "it was refused", hint="`headrace dlq show` has its bytes")
    return "ingested" if outcome.ingested else "accepted"


def status_path(request_id: object) -> str:
    """Return where a request's state can be asked for."""
    return f"/api/v1/ingest/status/{request_id}"
