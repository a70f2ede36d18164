import time
from collections.abc import Callable, Iterable
from typing import Any

from headrace.runtime.errors import HeadraceError
from headrace.schemas.topics import PartitionKey
from headrace.streams.worker.profile import REBALANCE_TIMEOUT_S


class Membership:
    """A worker's membership in its consumer group and its assigned partitions.

    An assignment may be empty: with more members than partitions, some are on standby.
    """

    def __init__(self, app: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """`app` is a Faust app that is not started yet; `clock` returns seconds."""
        self._clock = clock
        self._assignment: frozenset[PartitionKey] | None = None
        self._left_at_s = clock()
        app.on_partitions_assigned.connect(self._on_assigned)
        app.on_partitions_revoked.connect(self._on_revoked)

    async def check(self) -> None:
        """Raise while the worker has no assignment; for readiness."""
        if self._assignment is None:
            raise HeadraceError("group_not_joined", "the consumer group has not assigned partitions yet")

    def assignment(self) -> frozenset[PartitionKey] | None:
        """Return the assigned partitions, or None while the worker is not a member; callable from any thread.

        Faust's consumer has them too, but is created on first access: accessed by another thread while the app starts,
        it is created twice, and the app keeps the one that was not started.
        """
        return self._assignment

    def overdue(self) -> bool:
        """Return whether there has been no assignment for longer than any rebalance takes: then none will come.

        Nothing else shows that while the group's other members do the work.
        """
        return self._assignment is None and self._clock() - self._left_at_s > REBALANCE_TIMEOUT_S

    async def _on_assigned(self, _app: object, assigned: Iterable[Any], **_: object) -> None:
        self._assignment = frozenset((partition.topic, partition.partition) for partition in assigned)

    async def _on_revoked(self, *_: object, **__: object) -> None:
        if self._assignment is not None:
            self._left_at_s = self._clock()
        self._assignment = None
