"""librdkafka's own log never reaches a terminal: a line of it begins with `%`."""

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings, load_settings
from tests.commands import clean_environment
from tests.processes import free_port
from tests.runtime import runtime_scripts

ENDS_S_MAX = 60.0

CLIENTS = """
    import asyncio, os, sys
    from uuid import uuid4
    from confluent_kafka import KafkaException, Producer
    from headrace.gateway.capture.request_topic import CaptureRequestConsumer
    from headrace.producers import Publisher
    from headrace.runtime.kafka import reach_kafka
    from headrace.runtime.logs import configure_logs
    from headrace.runtime.settings import LogFormat, load_settings
    from headrace.runtime.topic_reader import NO_END, TopicReader, reading_consumer
    from headrace.streams.consumers.group_consumer import GroupConsumer
    from headrace.streams.consumers.results import Results
    from headrace.streams.relay.outbox_publisher import OutboxPublisher
    from headrace.streams.worker.lag import LagProbe
    from headrace.schemas.topics import TOPICS

    TOPIC = "ingested.cids.v1"
    if sys.argv[1] == "logged":
        configure_logs(LogFormat.JSON, "info", "test")
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = cluster.list_topics(TOPIC, timeout=10).brokers.values()
    settings = load_settings(_env_file=None, kafka_bootstrap=f"{broker.host}:{broker.port}", start_wait_s_max=0)

    async def main():
        global cluster
        group = GroupConsumer(settings, "group", [TOPIC], on_revoked=lambda _keys: None)
        capture, lag = CaptureRequestConsumer(settings), LagProbe(settings, "group", [TOPIC], lambda: None)
        results = Results(settings, uuid4().hex)
        outbox = OutboxPublisher(settings, TOPICS[TOPIC], lambda _point: None)
        admin, publisher = reach_kafka(settings), Publisher.from_settings(settings)
        await group.open()
        await capture.open()
        lag.start()
        results.open()
        outbox.open()
        with reading_consumer(settings, "reader") as consumer:
            reader = TopicReader(consumer, {(TOPIC, 0): (0, NO_END)}, silence_s_max=None, on_error=lambda _error: None)
            for number in range(20):
                if number == 5:
                    print("there", flush=True)
                    del cluster
                await group.poll(1)
                await capture.poll(paused=False)
                reader.read(1, 0.05)
            try:
                admin.list_topics(timeout=1)
            except KafkaException as error:
                print(error.args[0].name())
            print("ended", flush=True)
            os._exit(0)  # closing waits for a broker

    asyncio.run(main())
"""


def raw_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("%")]


@pytest.mark.server
@pytest.mark.timeout(120)
@pytest.mark.parametrize("where", ["logged", pytest.param("unlogged", marks=pytest.mark.slow)])
def test_no_client_writes_to_standard_error_when_kafka_dies(where: str) -> None:
    ended = runtime_scripts.run(CLIENTS, where)
    assert (ended.code, "ended" in ended.out) == (0, True), ended.err
    assert raw_lines(ended.err) == []
    if where == "logged":
        lines = [line for line in ended.err.splitlines() if '"event": "library"' in line or '"event":"library"' in line]
        assert any("FAIL" in line for line in lines), "a process that logs has what its clients say"


COMMANDS = [
    ("init",),
    ("worker", "--kinds", "frames"),
    ("relay",),
    ("consumer", "preprocessing"),
    ("gateway",),
    ("cat", "ingested.frames.v1"),
    ("recover",),
    pytest.param(("dlq", "redrive"), marks=pytest.mark.slow),
    pytest.param(("fsck", "--topics"), marks=pytest.mark.slow),
]


@pytest.mark.stack
@pytest.mark.server
@pytest.mark.timeout(180)
@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_no_command_shows_it_while_kafka_is_away(settings: Settings, tmp_path: Path, args: tuple[str, ...]) -> None:
    away = settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}", "start_wait_s_max": 1.0})
    ended = subprocess.run(
        [sys.executable, "-m", "headrace", *args],
        env=clean_environment(away) | {"HEADRACE_GATEWAY_PORT": str(free_port())},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=ENDS_S_MAX,
    )
    assert raw_lines(ended.stderr) == []
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr


def test_a_log_that_nobody_fetches_is_not_kept() -> None:
    config = client_config(load_settings(_env_file=None))
    assert config["log_level"] == 0
    assert not config["logger"].propagate
    assert client_config(load_settings(_env_file=None), is_logged=True)["logger"].propagate
