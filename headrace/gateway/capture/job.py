"""One capture request in the hands of a worker: its lease, its progress, and its transitions between states.

The request's row is the only state: a transition happens where the row permits it, and not otherwise.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace

from headrace.gateway.capture.camera_faults import CameraFault, failure_reason
from headrace.gateway.capture.capture_request import (
    ACTIVE_STATES,
    FINAL_STATES,
    PREDECESSORS,
    CaptureProgress,
    CaptureState,
)
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import capture_states_total
from headrace.store.requests.ingest_requests import Captures, IngestRequest, IngestRequests

LEASE_RENEWAL_S = 5.0
LEASE_S = 30.0  # after which other workers take a request over; six renewals
_RETRY_S = 1.0
_RELEASE_S_MAX = 5.0


class LeaseLostError(Exception):
    """Raised when another worker holds the request's lease."""


@dataclass(frozen=True, slots=True)
class JobStore:
    """The catalog's tables of capture requests."""

    requests: IngestRequests
    captures: Captures


class CaptureJob:
    """A request that this worker captures."""

    def __init__(self, store: JobStore, request: IngestRequest, progress: CaptureProgress) -> None:
        """Start from the stored progress."""
        self._store = store
        self.request = request
        self.progress = progress
        self.state = CaptureState.REQUESTED

    async def acquire(self) -> bool:
        """Acquire the lease; False if the request is no longer available."""
        return await self._try_transition(CaptureState.CONNECTING, None)

    def update_progress(self, **changes: object) -> None:
        """Change fields of the progress; the next renewal or transition stores them."""
        self.progress = replace(self.progress, **changes)  # type: ignore[arg-type]

    async def transition(self, state: CaptureState, reason: str | None = None) -> None:
        """Change the state, retrying while the catalog is unavailable.

        Raises:
            LeaseLostError: another worker holds the lease.
        """
        while True:
            with suppress(HeadraceError):
                if not await self._renew_lease() or not await self._try_transition(state, reason):
                    raise LeaseLostError
                return
            await asyncio.sleep(_RETRY_S)

    async def fail(self, fault: CameraFault) -> None:
        """Change the state to failed.

        Raises:
            LeaseLostError: another worker holds the lease.
        """
        self.update_progress(last_error=fault.value)
        await self.transition(CaptureState.FAILED, failure_reason(fault))

    async def release(self) -> bool:
        """Release the lease so that another worker can acquire it; False if that was not possible."""
        if self.state in FINAL_STATES:
            return False
        self.update_progress(worker="")
        with suppress(HeadraceError, TimeoutError):
            async with asyncio.timeout(_RELEASE_S_MAX):
                return await self._try_transition(CaptureState.REQUESTED, None)
        return False

    async def keep_lease(self) -> None:
        """Renew the lease periodically; returns once it is lost."""
        while True:
            await asyncio.sleep(LEASE_RENEWAL_S)
            with suppress(HeadraceError):
                if not await self._renew_lease():
                    return

    async def _renew_lease(self) -> bool:
        progress = self.progress
        return await self._store.captures.renew_lease(
            self.request.request_id, progress.worker, progress.as_json(), ACTIVE_STATES
        )

    async def _try_transition(self, state: CaptureState, reason: str | None) -> bool:
        changed = await self._store.requests.advance(
            self.request.request_id,
            before=PREDECESSORS[state],
            state=state,
            evidence=self.progress.as_json(),
            reason=reason,
        )
        if changed:
            self.state = state
            capture_states_total.labels(state).inc()
            get_log().info(
                Action.CAPTURE,
                request_id=str(self.request.request_id),
                source_id=self.request.source_id,
                site=self.request.site,
                state=state,
                why=reason,
            )
        return changed
