"""A worker that cannot start says why in a sentence, what to do next, and with a code that a supervisor understands."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from runtime.errors import Exit
from runtime.settings import Settings, load_settings
from tests.conftest import ServiceProcess, free_port

CANARY = "canary-of-the-start"
ENDS_S_MAX = 60.0


def ended(settings: Settings, tmp_path: Path, *args: str, **changes: Any) -> tuple[int, str]:
    """Start a worker, wait until it has ended, and return its code and what it said."""
    given = args or ("--kinds", "frames,clips")
    worker = ServiceProcess(
        settings, "worker", *given, log=tmp_path / "worker.log", **{"start_wait_s_max": 1, **changes}
    )
    try:
        code = worker.process.wait(ENDS_S_MAX)
    finally:
        worker.kill()
    said = worker.log.read_text()
    assert "Traceback" not in said
    assert CANARY not in said
    return code, said


@pytest.fixture
def nothing() -> Settings:
    """Settings for a machine where nothing runs, with secrets that must not be shown."""
    return load_settings(
        _env_file=None,
        kafka_bootstrap=f"127.0.0.1:{free_port()}",
        postgres_dsn=f"postgresql://me:{CANARY}@127.0.0.1:{free_port()}/headrace",
        store_endpoint=f"http://127.0.0.1:{free_port()}",
        store_access_key=CANARY,
        store_secret_key=CANARY,
    )


@pytest.fixture
def empty_kafka() -> Iterator[str]:
    """The address of a broker without topics, which librdkafka brings along."""
    producer = Producer({"test.mock.num.brokers": 1})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    yield f"{broker.host}:{broker.port}"
    del producer


@pytest.mark.parametrize("kinds", ["cids,frames", "cids,ldos,frames,clips", "clips,ldos"])
def test_small_and_large_kinds_are_not_mixed(nothing: Settings, tmp_path: Path, kinds: str) -> None:
    code, said = ended(nothing, tmp_path, "--kinds", kinds)
    assert code == Exit.USAGE
    assert "--kinds cids,ldos" in said


@pytest.mark.parametrize(("kinds", "named"), [("frames,pictures", "'picture'"), ("", "no kind was named")])
def test_an_unknown_kind_is_named_with_those_there_are(
    nothing: Settings, tmp_path: Path, kinds: str, named: str
) -> None:
    code, said = ended(nothing, tmp_path, "--kinds", kinds)
    assert code == Exit.USAGE
    assert named in said
    assert "cids, frames, clips, ldos" in said


def test_a_wrong_setting_is_named(nothing: Settings, tmp_path: Path) -> None:
    code, said = ended(nothing, tmp_path, batch_frames_max=0)
    assert code == Exit.USAGE
    assert "HEADRACE_BATCH_FRAMES_MAX is not usable" in said


def test_a_kafka_that_is_away_is_named(nothing: Settings, tmp_path: Path) -> None:
    code, said = ended(nothing, tmp_path)
    assert code == Exit.UNREACHABLE
    assert "kafka does not answer" in said
    assert nothing.kafka_bootstrap in said
    assert "HEADRACE_KAFKA_BOOTSTRAP" in said


def test_missing_topics_are_named(nothing: Settings, tmp_path: Path, empty_kafka: str) -> None:
    code, said = ended(nothing, tmp_path, kafka_bootstrap=empty_kafka)
    assert code == Exit.UNREACHABLE
    assert "there is no topic edge.clips.v1, edge.frames.v1" in said
    assert "headrace init" in said


@pytest.mark.stack
def test_a_postgres_that_is_away_is_named(stack_settings: Settings, tmp_path: Path) -> None:
    port = free_port()
    code, said = ended(stack_settings, tmp_path, postgres_dsn=f"postgresql://me:{CANARY}@127.0.0.1:{port}/headrace")
    assert code == Exit.UNREACHABLE
    assert f"postgresql://127.0.0.1:{port}/headrace" in said
    assert "HEADRACE_POSTGRES_DSN" in said


@pytest.mark.stack
def test_a_postgres_that_refuses_is_named(stack_settings: Settings, tmp_path: Path) -> None:
    server = stack_settings.postgres_dsn.get_secret_value().rsplit("@", 1)[1]
    code, said = ended(stack_settings, tmp_path, postgres_dsn=f"postgresql://headrace:{CANARY}@{server}")
    assert code == Exit.FAILED
    assert "postgres_refused" in said
    assert "hint" in said


@pytest.mark.stack
def test_a_catalog_without_tables_is_named(stack_settings: Settings, tmp_path: Path) -> None:
    server = stack_settings.postgres_dsn.get_secret_value().rsplit("/", 1)[0]
    code, said = ended(stack_settings, tmp_path, postgres_dsn=f"{server}/template1")
    assert code == Exit.FAILED
    assert '"outbox" does not exist' in said


@pytest.mark.stack
def test_a_store_that_is_away_is_named(stack_settings: Settings, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    code, said = ended(stack_settings, tmp_path, store_endpoint=endpoint, store_secret_key=CANARY)
    assert code == Exit.UNREACHABLE
    assert endpoint in said
    assert "HEADRACE_STORE_ENDPOINT" in said


@pytest.mark.stack
@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"store_url": "s3://no-such-bucket-here"}, "Create the bucket"),
        ({"store_secret_key": CANARY}, "HEADRACE_STORE_SECRET_KEY"),
        ({"store_url": "ftp://somewhere"}, "HEADRACE_STORE_URL"),
    ],
)
def test_a_store_that_refuses_is_named(
    stack_settings: Settings, tmp_path: Path, changes: dict[str, str], hint: str
) -> None:
    code, said = ended(stack_settings, tmp_path, **changes)
    assert code == Exit.FAILED
    assert "store_refused" in said
    assert hint in said


@pytest.mark.stack
def test_a_health_port_that_is_taken_is_named(stack_settings: Settings, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = ended_on_port(stack_settings, tmp_path, port)
    assert code == Exit.USAGE
    assert f"127.0.0.1:{port}" in said


def ended_on_port(settings: Settings, tmp_path: Path, port: int) -> tuple[int, str]:
    worker = ServiceProcess(settings, "worker", "--kinds", "frames", log=tmp_path / "worker.log")
    worker.kill()
    worker._env["HEADRACE_HEALTH_PORT"] = str(port)
    worker.process = worker._start()
    try:
        return worker.process.wait(ENDS_S_MAX), worker.log.read_text()
    finally:
        worker.kill()
