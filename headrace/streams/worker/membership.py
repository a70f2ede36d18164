import time
from collections.abc import Callable, Iterable
from typing import Any

from headrace.runtime.errors import HeadraceError
from headrace.streams.worker.lag import Partition
from headrace.streams.worker.profile import REBALANCE_TIMEOUT_S


class Membership:
    """Whether a worker belongs to its group and knows its share of the partitions.

    None is a share too: with more members than partitions some stand by.
    """

    def __init__(self, app: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """`app` is a Faust app that has not been started yet; `clock` returns seconds."""
        self._clock = clock
        self._share: frozenset[Partition] | None = None
        self._left_at_s = clock()
        app.on_partitions_assigned.connect(self._on_assigned)
        app.on_partitions_revoked.connect(self._on_revoked)

    async def check(self) -> None:
        """Raise while it has no share; for readiness."""
        if self._share is None:
            raise HeadraceError("group_not_joined", "the consumer group has not handed out its partitions yet")

    def share(self) -> frozenset[Partition] | None:
        """Return the partitions that are its own just now, None while it does not belong; any thread may ask.

        Faust's consumer knows them too, but makes itself when it is first asked for: asked by another thread while the
        app starts, it is made twice, and the one that the app holds on to is not the one that was started.
        """
        return self._share

    def overdue(self) -> bool:
        """Say whether it has had no share for longer than any rebalance takes: then it will not get one by itself.

        Nothing else shows that while the group's other members take its share of the work.
        """
        return self._share is None and self._clock() - self._left_at_s > REBALANCE_TIMEOUT_S

    async def _on_assigned(self, _app: object, assigned: Iterable[Any], **_: object) -> None:
        self._share = frozenset((one.topic, one.partition) for one in assigned)

    async def _on_revoked(self, *_: object, **__: object) -> None:
        if self._share is not None:
            self._left_at_s = self._clock()
        self._share = None
