import time
from collections.abc import Callable
from typing import Any

from runtime.errors import HeadraceError
from streams.profile import REBALANCE_TIMEOUT_S


class Membership:
    """Whether a worker belongs to its group and knows its share of the partitions.

    None is a share too: with more members than partitions some stand by.
    """

    def __init__(self, app: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """`app` is a Faust app that has not been started yet; `clock` returns seconds."""
        self._clock = clock
        self._joined = False
        self._left_at_s = clock()
        app.on_partitions_assigned.connect(self._on_assigned)
        app.on_partitions_revoked.connect(self._on_revoked)

    async def check(self) -> None:
        """Raise while it has no share; for readiness."""
        if not self._joined:
            raise HeadraceError("group_not_joined", "the consumer group has not handed out its partitions yet")

    def overdue(self) -> bool:
        """Say whether it has had no share for longer than any rebalance takes: then it will not get one by itself.

        Nothing else shows that while the group's other members take its share of the work.
        """
        return not self._joined and self._clock() - self._left_at_s > REBALANCE_TIMEOUT_S

    async def _on_assigned(self, *_: object, **__: object) -> None:
        self._joined = True

    async def _on_revoked(self, *_: object, **__: object) -> None:
        if self._joined:
            self._left_at_s = self._clock()
        self._joined = False
