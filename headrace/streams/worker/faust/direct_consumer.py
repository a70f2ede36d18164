"""Faust's consumer without the two tasks for each message that cost a third of its time.

Faust delivers each message through `wait_first(callback(message), suspend_flow.wait())`, which creates and cancels two
tasks so that a rebalance can interrupt a full buffer. Here the callback is awaited directly while messages flow; a
rebalance meanwhile stops the fetcher, which cancels this loop, and messages of an older generation are skipped by the
stream and delivered again. Everything else is as in faust-streaming 0.15.3, `faust/transport/consumer.py`,
`Consumer._drain_messages`.
"""

import asyncio
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver

_YIELD_EVERY_MESSAGES = 100  # lets the event loop run, and with it the heartbeat
_FETCH_WAIT_S = 1.0


class DirectConsumer(driver.Consumer):
    """Delivers messages without creating tasks for each."""

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                messages = self.getmany(timeout=_FETCH_WAIT_S)
                await asyncio.sleep(0)
                await self._deliver(messages)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _deliver(self, messages: Any) -> None:
        delivered = 0
        async for tp, message in messages:
            delivered += 1
            if delivered % _YIELD_EVERY_MESSAGES == 0:
                await asyncio.sleep(0)
            expected = self._read_offset[tp]
            if expected is not None and message.offset < expected:
                continue
            if expected and message.offset - expected > 1:
                # Offsets without a message (transaction markers, compacted messages) count as done.
                await self._add_gap(tp, expected + 1, message.offset)
            if self.flow_active:
                await self.callback(message)
            else:
                await self.wait_first(self.callback(message), self.suspend_flow.wait())
            self._read_offset[tp] = message.offset

    def on_buffer_full(self, tp: Any) -> None:
        """Keep fetching: a full buffer already blocks the delivery of the next message.

        Faust pauses the partition instead, and once all are paused it sleeps for a second, even if the buffer has room.
        """

    def on_buffer_drop(self, tp: Any) -> None:
        """Do nothing: no partition was paused."""

    def _new_consumer_thread(self) -> Any:
        return _CommittedThread(self, loop=self.loop, beacon=self.beacon)


class _CommittedThread(driver.AIOKafkaConsumerThread):
    """The fetching thread; it reads only committed messages."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust offers no setting for it; aiokafka reads it when the consumer starts.
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        return consumer


class DirectTransport(driver.Transport):
    """The transport that creates `DirectConsumer`."""

    Consumer = DirectConsumer


class FaustApp(faust.App):
    """A Faust app with this transport, without Faust's monitor and without files on disk."""

    def _new_transport(self) -> Any:
        return DirectTransport(self.conf.broker_consumer, self)

    def on_init_dependencies(self) -> Any:
        """Remove Faust's monitor: it costs a tenth of the time of each message, and our metrics replace it."""
        services = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        return services

    def _create_directories(self) -> None:
        """Create no directories: they are for tables, and there are none."""
