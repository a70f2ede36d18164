"""Relays that forget a step: one reads nothing that is published, one marks its rows before Kafka has them."""

import asyncio
from typing import Any

from headrace.streams.relay.announcement import announce_each
from headrace.streams.relay.outbox_publisher import OutboxPublisher
from headrace.streams.relay.topic_relay import TopicRelay


async def _nothing(_self: TopicRelay, _over: asyncio.Event) -> None:
    return


async def _mark_first(self: TopicRelay, publisher: OutboxPublisher, rows: list[Any]) -> None:
    batch = announce_each(rows, lambda _row: publisher.bytes_max)
    await self._outbox.mark([row.outbox_id for row in batch.rows])
    await self._blocking(lambda: publisher.announce(batch.messages))


def without_catch_up() -> None:
    """Let a new leader begin with the rows that are not marked, whatever is published."""
    TopicRelay._catch_up = _nothing  # type: ignore[assignment, method-assign]


def marking_first() -> None:
    """Mark the rows of a transaction, and then publish it."""
    TopicRelay._announce = _mark_first  # type: ignore[method-assign]
