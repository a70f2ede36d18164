"""An hour of a camera again at ten times its speed, killed once; then the same hour with Kafka's own tool.

The frames go through Kafka and the worker's own path. What is judged: each frame is on the target topic once and in its
order, and the frames of each of the two runs arrive within 5 % of a tenth of the time that they took.
"""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headrace.initialize import initialize
from headrace.native import StackInfo, temporary_stack
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from tests.batch.batch_samples import CAPTURED_AT_US, Line, frame
from tests.processes import environment_of
from tests.servers import in_memory_directory, settings_of

COUNT = 3600  # one frame a second
SPEED = 10
DEVIATION_MAX = 0.05

_BATCH = 200
_SOURCE = "camera-1"
_TOPIC, _GROUP = "hour-again", "hour-of-a-camera"
_GAP_S = 15.0  # between the run that is killed and the next, longer than a busy machine stands still


def prove(count: int, say: Callable[[str], None]) -> list[str]:
    """Return what did not hold of a replay of `count` seconds."""
    with temporary_stack("local", state_dir=in_memory_directory()) as stack:
        settings = settings_of(stack)
        initialize(settings)
        began = datetime.now(UTC) - timedelta(seconds=1)
        asyncio.run(_fill(settings, count))
        say(f"{count} frames of {_SOURCE} in the catalog, one a second")
        admin = AdminClient(client_config(settings))
        admin.create_topics([NewTopic(_TOPIC, 4, 1)])[_TOPIC].result(30)
        _replay(settings, count, say)
        figures = _judge(settings)
        figures["by kafka's tool"] = _reset(stack, settings, began)
        say(json.dumps({"proof": "replay", "frames": count, "speed": SPEED, "kills": 1, **figures}))
        expected = {"on the topic": count, "distinct": count, "out of order": 0, "by kafka's tool": count}
        wrong = [
            f"{name}: {figures[name]} instead of {value}" for name, value in expected.items() if figures[name] != value
        ]
        return wrong + [f"a run deviates by {share:.1%}" for share in figures["deviations"] if share > DEVIATION_MAX]


async def _fill(settings: Settings, count: int) -> None:
    catalog = await Catalog.open(settings.postgres_dsn.get_secret_value())
    line = Line(settings, Blobs.from_settings(settings), catalog)
    for first in range(0, count, _BATCH):
        made = [
            frame(uuid4().hex, sequence=number, captured_at_us=CAPTURED_AT_US + number * 1_000_000)
            for number in range(first, min(first + _BATCH, count))
        ]
        await line.take(*made)
    await catalog.close()


def _replay(settings: Settings, count: int, say: Callable[[str], None]) -> None:
    options = ["--kind", "frames", "--source", _SOURCE, "--topic", _TOPIC, "--speed", str(SPEED), "--name", "hour"]
    command = [sys.executable, "-m", "headrace", "replay", *options, "--yes"]
    environment = {"PATH": "/usr/bin:/bin", **environment_of(settings)}
    killed = subprocess.Popen(command, env=environment)
    time.sleep(count / SPEED / 2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    say(f"killed after {count / SPEED / 2:.0f} s")
    time.sleep(_GAP_S)
    subprocess.run(command, env=environment, check=True)


def _judge(settings: Settings) -> dict[str, Any]:
    with reading_consumer(settings, "proof") as consumer:
        messages = list(TopicReader(consumer, offset_bounds(consumer, partitions_of(consumer, _TOPIC))))
    sequences = [decode(message.value(), Ingested).sequence for message in messages]
    arrived_s = [message.timestamp()[1] / 1000 for message in messages]
    # The two runs are told apart by the longest gap: the second one begins late on purpose.
    second = max(range(1, len(messages)), key=lambda number: arrived_s[number] - arrived_s[number - 1])
    deviations = []
    for first, end in pairwise([0, second, len(messages)]):
        expected_s = (sequences[end - 1] - sequences[first]) / SPEED
        deviations.append(abs((arrived_s[end - 1] - arrived_s[first]) / expected_s - 1) if expected_s else 0.0)
    return {
        "on the topic": len(messages),
        "distinct": len(set(sequences)),
        "out of order": sum(before >= after for before, after in pairwise(sequences)),
        "deviations": [round(share, 4) for share in deviations],
    }


def _reset(stack: StackInfo, settings: Settings, began: datetime) -> int:
    """Move a group to the time before the hour arrived, and count what it gets of the camera."""
    tool = [
        sys.executable,
        "-m",
        "headrace",
        "kafka",
        "consumer-groups",
        "--group",
        _GROUP,
        "--topic",
        "edge.frames.v1",
    ]
    when = began.strftime("%Y-%m-%dT%H:%M:%S.000")
    environment = {"PATH": "/usr/bin:/bin", "HEADRACE_STATE_DIR": str(stack.state_dir)}
    subprocess.run([*tool, "--reset-offsets", "--to-datetime", when, "--execute"], env=environment, check=True)
    consumer = Consumer(client_config(settings, group_id=_GROUP, auto_offset_reset="error", enable_partition_eof=True))
    consumer.subscribe(["edge.frames.v1"])
    seen: set[tuple[int, int]] = set()
    quiet_at_s = time.monotonic() + 30
    while time.monotonic() < quiet_at_s:
        for message in consumer.consume(500, 0.5):
            if message.error() is None:
                seen.add((message.partition() or 0, message.offset() or 0))
                quiet_at_s = time.monotonic() + 5
    consumer.close()
    return len(seen)
