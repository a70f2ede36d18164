"""A Quix Streams pipeline that does only Kafka → S3: no check, no deduplication, no catalog, no announcement.

`headrace bench` runs it in an environment of its own (requirements.txt). The last line of its output is a JSON object
with the messages, and the wall and CPU seconds, from the end of its first checkpoint to that of its last one.
"""

import argparse
import io
import json
import os
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import boto3
from botocore.config import Config
from quixstreams import Application
from quixstreams.sinks.base import BaseSink

PUTS_AT_ONCE = 16


class S3Sink(BaseSink):  # type: ignore[misc]  # the package ships no types
    """Puts each message, or a tar of every `pack` of them, when a checkpoint ends; stops after `limit` messages."""

    def __init__(self, prefix: str, *, pack: int, limit: int) -> None:
        super().__init__()
        bucket, _, folder = os.environ["PEER_BUCKET"].partition("/")
        self._bucket = bucket
        self._prefix = f"{folder}/{prefix}".lstrip("/")
        self._pack = pack
        self._limit = limit
        self._client = boto3.client(
            "s3", endpoint_url=os.environ["PEER_ENDPOINT"], config=Config(max_pool_connections=PUTS_AT_ONCE)
        )
        self._threads = ThreadPoolExecutor(PUTS_AT_ONCE)
        self._waiting: list[tuple[str, bytes]] = []
        self._packs = count()
        self.app: Application | None = None
        self.checkpoints: list[tuple[int, float, float]] = []

    def add(self, **message: Any) -> None:
        """Keep a message until the checkpoint."""
        self._waiting.append((f"{message['partition']}/{message['offset']:012d}", message["value"]))

    def flush(self) -> None:
        """Put what is waiting; the checkpoint commits its offsets afterwards."""
        before = self.checkpoints[-1][0] if self.checkpoints else 0
        objects = self._waiting
        if self._pack > 1:
            starts = range(0, len(self._waiting), self._pack)
            objects = [self._tar(self._waiting[start : start + self._pack]) for start in starts]
        for _ in self._threads.map(self._put, objects):
            pass
        self.checkpoints.append((before + len(self._waiting), time.monotonic(), time.process_time()))
        self._waiting = []
        if self.checkpoints[-1][0] >= self._limit and self.app is not None:
            self.app.stop()

    def _tar(self, members: list[tuple[str, bytes]]) -> tuple[str, bytes]:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, value in members:
                member = tarfile.TarInfo(name)
                member.size = len(value)
                tar.addfile(member, io.BytesIO(value))
        return f"{next(self._packs):08d}.tar", packed.getvalue()

    def _put(self, item: tuple[str, bytes]) -> None:
        name, body = item
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=body)


def main() -> None:
    """Move so many messages of a topic, from its beginning."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topic")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--pack", type=int, default=1, help="messages in one object")
    parser.add_argument("--checkpoint", type=int, required=True, help="messages in one checkpoint")
    given = parser.parse_args()
    name = f"bench-quix-{time.time_ns()}"
    # Whole checkpoints: the rest would wait for the interval.
    sink = S3Sink(name, pack=given.pack, limit=given.count // given.checkpoint * given.checkpoint)
    app = Application(
        broker_address=os.environ["PEER_BOOTSTRAP"],
        consumer_group=name,
        auto_offset_reset="earliest",
        commit_every=given.checkpoint,
        commit_interval=60.0,
        auto_create_topics=False,
        loglevel="WARNING",
        # Without it, librdkafka pauses for a second whenever its queue is full.
        consumer_extra_config={"fetch.queue.backoff.ms": 5},
    )
    sink.app = app
    frame = app.dataframe(app.topic(given.topic, value_deserializer="bytes", key_deserializer="bytes"))
    frame.sink(sink)
    app.run()
    (first, began_s, began_cpu_s), (last, ended_s, ended_cpu_s) = sink.checkpoints[0], sink.checkpoints[-1]
    figures = {"messages": last - first, "seconds": ended_s - began_s, "cpu_s": ended_cpu_s - began_cpu_s}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
