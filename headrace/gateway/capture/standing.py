"""Standing captures: a camera is captured until it is removed, as a chain of requests of an hour at most.

The successor of a request is stored before the request ends, under an id that follows from the request's, so that a
worker that is killed between the two neither ends the chain nor doubles it.
"""

from uuid import UUID, uuid5

from headrace.gateway.capture.camera_url import CredentialCipher, DecryptionError, parse_camera_url
from headrace.gateway.capture.capture_request import ACTIVE_STATES, FINAL_STATES, CapturePlan, CaptureState
from headrace.store.requests.ingest_requests import IngestRequest, IngestRequests, NewRequest

REMOVED = "removed: the camera's standing capture was removed"
OPEN_STATES = frozenset({CaptureState.REQUESTED, *ACTIVE_STATES})


def successor_id(request_id: UUID) -> UUID:
    """Return the id of the request that follows this one."""
    return uuid5(request_id, "next")


def successor_of(request: IngestRequest, cipher: CredentialCipher | None) -> NewRequest | None:
    """Return the request that follows one of a standing capture; None for other requests.

    A login that cannot be decrypted is not passed on: the successor fails as this one did.
    """
    plan = CapturePlan.from_json(request.asked)
    if not plan.standing:
        return None
    sealed, following = request.sealed, successor_id(request.request_id)
    if sealed is not None and cipher is not None:
        try:
            url = cipher.decrypt(request.request_id, sealed, parse_camera_url(plan.url))
            sealed = cipher.encrypt(following, url)
        except DecryptionError:
            pass
    return NewRequest(
        request_id=following,
        kind=request.kind,
        actor=request.actor,
        site=request.site,
        source_id=request.source_id,
        state=CaptureState.REQUESTED,
        asked=request.asked,
        sealed=sealed,
    )


async def add_successor(requests: IngestRequests, successor: NewRequest | None) -> None:
    """Store a successor; may be repeated."""
    if successor is not None and await requests.get(successor.request_id) is None:
        await requests.add(successor)


async def withdraw_successor(requests: IngestRequests, request_id: UUID) -> None:
    """Remove the successor of a request that was removed while it was ending."""
    request = await requests.get(request_id)
    if request is not None and request.state in FINAL_STATES and request.reason == REMOVED:
        await remove(requests, successor_id(request_id))


async def remove(requests: IngestRequests, request_id: UUID) -> bool:
    """End a request without a successor: its worker loses its lease; return False if it had ended."""
    return await requests.advance(
        request_id, before=OPEN_STATES, state=CaptureState.FAILED, evidence="{}", reason=REMOVED
    )
