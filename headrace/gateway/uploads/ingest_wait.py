"""Waiting until what was published is durable: all who wait are asked for with one statement."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from headrace.runtime.errors import HeadraceError
from headrace.runtime.metrics import gateway_answers_waiting
from headrace.store.requests.ingest_status import IngestStatus, IngestStatuses, MessageRef

_EVERY_S = 0.03
_EVERY_S_WHILE_AWAY = 0.5
_PLACES_AT_ONCE_MAX = 1000
_ON_ITS_WAY = IngestStatus(ingested=False, code=None, reason=None)


class IngestWait:
    """Tells who waits what became of their messages."""

    def __init__(self, landings: IngestStatuses) -> None:
        self._landings = landings
        self._waiting: dict[MessageRef, asyncio.Future[IngestStatus]] = {}
        self._waiters: Counter[MessageRef] = Counter()
        self._some = asyncio.Event()

    async def outcomes(self, places: Sequence[MessageRef], wait_s_max: float) -> list[IngestStatus]:
        """Return what became of each message once that is known of all, at the latest after so many seconds."""
        loop = asyncio.get_running_loop()
        futures = [self._waiting.setdefault(place, loop.create_future()) for place in places]
        self._waiters.update(places)
        self._some.set()
        gateway_answers_waiting.inc(len(futures))
        try:
            if futures:
                await asyncio.wait(futures, timeout=wait_s_max)
            return [one.result() if one.done() else _ON_ITS_WAY for one in futures]
        finally:
            gateway_answers_waiting.dec(len(futures))
            self._waiters.subtract(places)
            for place in set(places):
                if self._waiters[place] == 0:
                    del self._waiting[place], self._waiters[place]

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:  # noqa: ASYNC110 - the catalog has to be asked, it tells nobody
                await asyncio.sleep(_EVERY_S if await self._ask() else _EVERY_S_WHILE_AWAY)

    async def _ask(self) -> bool:
        places = [place for place, one in self._waiting.items() if not one.done()][:_PLACES_AT_ONCE_MAX]
        try:
            found = await self._landings.outcomes(places) if places else []
        except HeadraceError:
            return False  # who waits has a limit of its own
        for place, outcome in zip(places, found, strict=True):
            waiting = self._waiting.get(place)
            if outcome.is_final and waiting is not None and not waiting.done():
                waiting.set_result(outcome)
        return True
