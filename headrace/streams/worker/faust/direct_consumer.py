"""Faust's consumer, with the one await that costs a third of its time made direct.

Faust hands each message on through `wait_first(callback(message), suspend_flow.wait())`, which makes and cancels two
tasks a message so that a rebalance can interrupt a full buffer. Here the callback is awaited as it is while messages
flow; a rebalance that comes meanwhile stops the fetcher, which cancels this loop, and what was handed on for an older
generation is skipped by the stream and delivered again. Everything else is as in faust-streaming 0.15.3,
`faust/transport/consumer.py`, `Consumer._drain_messages`.
"""

import asyncio
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver

_YIELD_EVERY_MESSAGES = 100  # gives the event loop, and with it the heartbeat, its turn
_FETCH_WAIT_S = 1.0


class DirectConsumer(driver.Consumer):
    """Hands messages on without making tasks for each."""

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                messages = self.getmany(timeout=_FETCH_WAIT_S)
                await asyncio.sleep(0)
                await self._hand_on(messages)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _hand_on(self, messages: Any) -> None:
        taken = 0
        async for tp, message in messages:
            taken += 1
            if taken % _YIELD_EVERY_MESSAGES == 0:
                await asyncio.sleep(0)
            expected = self._read_offset[tp]
            if expected is not None and message.offset < expected:
                continue
            if expected and message.offset - expected > 1:
                # Offsets that hold no message (a transaction's markers, what compaction removed) count as done.
                await self._add_gap(tp, expected + 1, message.offset)
            if self.flow_active:
                await self.callback(message)
            else:
                await self.wait_first(self.callback(message), self.suspend_flow.wait())
            self._read_offset[tp] = message.offset

    def on_buffer_full(self, tp: Any) -> None:
        """Keep fetching: a full buffer already holds up whoever hands the next message on.

        Faust takes the partition out of the fetch instead, and once all are out it sleeps for a second, whatever room
        there is by then.
        """

    def on_buffer_drop(self, tp: Any) -> None:
        """Nothing was taken out."""

    def _new_consumer_thread(self) -> Any:
        return _CommittedThread(self, loop=self.loop, beacon=self.beacon)


class _CommittedThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches: what a producer's transaction aborted was never sent."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust offers no setting for it; aiokafka reads it when the consumer starts.
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        return consumer


class DirectTransport(driver.Transport):
    """The transport that makes such consumers."""

    Consumer = DirectConsumer


class FaustApp(faust.App):
    """A Faust app that consumes through them, measures nothing by itself, and keeps nothing on disk."""

    def _new_transport(self) -> Any:
        return DirectTransport(self.conf.broker_consumer, self)

    def on_init_dependencies(self) -> Any:
        """Leave Faust's monitor out: it costs a tenth of each message, and our own metrics say what it would."""
        services = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        return services

    def _create_directories(self) -> None:
        """Make no directories: they are for tables, of which there are none."""
