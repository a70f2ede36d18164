"""One request's way through its states: nothing moves without its row, and its row moves only from where it may."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace

from headrace.gateway.capture.camera_faults import CameraFault, reason_of
from headrace.gateway.capture.states import BEFORE, FINAL, RUNNING, CaptureProgress, CaptureState
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import capture_states_total
from headrace.store.requests.captures import Captures
from headrace.store.requests.requests import IngestRequest, IngestRequests

BEAT_S = 5.0
SILENT_S_MAX = 30.0  # after which a worker's requests go to others; six beats
_RETRY_S = 1.0
_GIVE_BACK_S_MAX = 5.0


class LeaseLostError(Exception):
    """The request is another worker's by now."""


@dataclass(frozen=True, slots=True)
class JobStore:
    """Where requests are kept."""

    requests: IngestRequests
    captures: Captures


class CaptureJob:
    """A request in the hands of this worker."""

    def __init__(self, book: JobStore, request: IngestRequest, evidence: CaptureProgress) -> None:
        """Begin with what is known."""
        self._book = book
        self.request = request
        self.evidence = evidence
        self.state = CaptureState.REQUESTED

    async def begin(self) -> bool:
        """Take the request; False where it is not to be had any more."""
        return await self._advanced(CaptureState.CONNECTING, None)

    def note(self, **known: object) -> None:
        """Add to what is known."""
        self.evidence = replace(self.evidence, **known)  # type: ignore[arg-type]

    async def move(self, state: CaptureState, reason: str | None = None) -> None:
        """Move to another state, waiting for the catalog where it is away.

        Raises:
            GivenAway: as it says.
        """
        while True:
            with suppress(HeadraceError):
                if not await self._beat() or not await self._advanced(state, reason):
                    raise LeaseLostError
                return
            await asyncio.sleep(_RETRY_S)

    async def fail(self, fault: CameraFault) -> None:
        """Move to its end, with a reason."""
        self.note(last_error=fault.value)
        await self.move(CaptureState.FAILED, reason_of(fault))

    async def give_back(self) -> bool:
        """Let another worker have it; False where that could not be said."""
        if self.state in FINAL:
            return False
        self.note(worker="")
        with suppress(HeadraceError, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_S_MAX):
                return await self._advanced(CaptureState.REQUESTED, None)
        return False

    async def keep(self) -> None:
        """Say every few seconds that this worker is at it; returns where it is not its own any more."""
        while True:
            await asyncio.sleep(BEAT_S)
            with suppress(HeadraceError):
                if not await self._beat():
                    return

    async def _beat(self) -> bool:
        told = self.evidence
        return await self._book.captures.beat(self.request.request_id, told.worker, told.as_json(), RUNNING)

    async def _advanced(self, state: CaptureState, reason: str | None) -> bool:
        moved = await self._book.requests.advance(
            self.request.request_id, before=BEFORE[state], state=state, evidence=self.evidence.as_json(), reason=reason
        )
        if moved:
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
        return moved
