"""Relays that forget a step: one reads nothing that is published, one marks its rows before Kafka has them."""

import asyncio
from typing import Any

from headrace.streams.relay.announcement import announce_each
from headrace.streams.relay.loop import Relay
from headrace.streams.relay.outbox_publisher import OutboxPublisher


async def _nothing(_self: Relay, _leader_lock: Any, _stop: asyncio.Event) -> None:
    return


async def _mark_first(self: Relay, publisher: OutboxPublisher, rows: list[Any]) -> None:
    batch = announce_each(rows)
    await self._outbox.mark([row.outbox_id for row in batch.rows])
    await self._blocking(lambda: publisher.announce(batch.messages))


def without_catch_up() -> None:
    """Let a new leader begin with the rows that are not marked, whatever is published."""
    Relay._catch_up = _nothing  # type: ignore[assignment, method-assign]


def marking_first() -> None:
    """Mark the rows of a transaction, and then publish it."""
    Relay._announce = _mark_first  # type: ignore[method-assign]
