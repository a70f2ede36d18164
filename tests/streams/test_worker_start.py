"""A worker that cannot start says why in a sentence, what to do next, and with a code that a supervisor understands."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from pydantic import SecretStr

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings, load_settings
from headrace.schemas.events import Kind
from headrace.streams.worker import app as worker
from headrace.streams.worker.app import group_of, work
from headrace.streams.worker.mirrored_topics import InputTopics
from tests.processes import ServiceProcess, free_port

CANARY = "canary-of-the-start"
LARGE = frozenset({Kind.FRAME, Kind.CLIP})
ENDS_S_MAX = 60.0


@pytest.fixture
def nothing() -> Settings:
    """Settings for a machine where nothing runs, with secrets that must not be shown."""
    return load_settings(
        _env_file=None,
        start_wait_s_max=0,
        kafka_bootstrap=f"127.0.0.1:{free_port()}",
        postgres_dsn=f"postgresql://me:{CANARY}@127.0.0.1:{free_port()}/headrace",
        store_endpoint=f"http://127.0.0.1:{free_port()}",
        store_access_key=CANARY,
        store_secret_key=CANARY,
    )


@pytest.fixture
def there(stack_settings: Settings) -> Settings:
    """Settings for the stack, where one thing after another is changed for the worse."""
    return stack_settings.model_copy(update={"start_wait_s_max": 0.0})


@pytest.fixture
def empty_kafka() -> Iterator[str]:
    """The address of a broker without topics, which librdkafka brings along."""
    producer = Producer({"test.mock.num.brokers": 1})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    yield f"{broker.host}:{broker.port}"
    del producer


async def why_not(settings: Settings, **changes: Any) -> HeadraceError:
    """What a worker with these settings says before it ends."""
    settings = settings.model_copy(update=changes)
    with pytest.raises(HeadraceError) as caught:
        async with asyncio.timeout(ENDS_S_MAX):
            await work(settings, LARGE, asyncio.Event())
    assert CANARY not in str(caught.value)
    assert caught.value.hint
    return caught.value


@pytest.mark.server
@pytest.mark.parametrize(
    ("changes", "args", "code", "named"),
    [
        ({}, ("--kinds", "frames,clips"), Exit.UNREACHABLE, "kafka does not answer"),
        ({"batch_frames_max": 0}, ("--kinds", "frames"), Exit.USAGE, "HEADRACE_BATCH_FRAMES_MAX is not usable"),
        ({}, ("--kinds", "cids,frames"), Exit.USAGE, "--kinds cids,ldos"),
    ],
    ids=["kafka away", "wrong setting", "kinds mixed"],
)
def test_the_process_ends_with_a_code_and_a_sentence(
    nothing: Settings, tmp_path: Path, changes: dict[str, Any], args: tuple[str, ...], code: int, named: str
) -> None:
    worker = ServiceProcess(nothing, "worker", *args, log=tmp_path / "worker.log", **{"start_wait_s_max": 1, **changes})
    try:
        assert worker.process.wait(ENDS_S_MAX) == code
    finally:
        worker.kill()
    said = worker.log.read_text()
    assert named in said
    assert "hint: " in said
    assert "Traceback" not in said
    assert CANARY not in said


@pytest.mark.parametrize("kinds", [{Kind.CID, Kind.FRAME}, {Kind.LDO, Kind.CLIP}, set(Kind), set()])
def test_small_and_large_kinds_are_not_mixed(kinds: set[Kind]) -> None:
    with pytest.raises(HeadraceError) as caught:
        group_of(frozenset(kinds))
    assert (caught.value.code, caught.value.exit_code) == ("kinds_mixed", Exit.USAGE)


@pytest.mark.parametrize(
    ("kinds", "group"),
    [
        ({Kind.CID}, "headrace-small"),
        ({Kind.CID, Kind.LDO}, "headrace-small"),
        ({Kind.CLIP}, "headrace-large"),
        (LARGE, "headrace-large"),
    ],
)
def test_kinds_of_a_size_share_a_group(kinds: set[Kind], group: str) -> None:
    assert group_of(frozenset(kinds)).name == group


@pytest.mark.server
async def test_a_kafka_that_is_away_is_named(nothing: Settings) -> None:
    error = await why_not(nothing)
    assert error.exit_code == Exit.UNREACHABLE
    assert error.where == nothing.kafka_bootstrap
    assert "HEADRACE_KAFKA_BOOTSTRAP" in error.hint


async def test_missing_topics_are_named(nothing: Settings, empty_kafka: str) -> None:
    error = await why_not(nothing, kafka_bootstrap=empty_kafka)
    assert error.exit_code == Exit.UNREACHABLE
    assert "there is no topic edge.clips.v1, edge.frames.v1" in error.what
    assert "headrace init" in error.hint


@pytest.mark.stack
async def test_a_postgres_that_is_away_is_named(there: Settings) -> None:
    port = free_port()
    error = await why_not(there, postgres_dsn=SecretStr(f"postgresql://me:{CANARY}@127.0.0.1:{port}/headrace"))
    assert error.exit_code == Exit.UNREACHABLE
    assert error.where == f"postgresql://127.0.0.1:{port}/headrace"
    assert "HEADRACE_POSTGRES_DSN" in error.hint


@pytest.mark.stack
async def test_a_postgres_that_refuses_is_named(there: Settings) -> None:
    server = there.postgres_dsn.get_secret_value().rsplit("@", 1)[1]
    error = await why_not(there, postgres_dsn=SecretStr(f"postgresql://headrace:{CANARY}@{server}"))
    assert (error.code, error.exit_code) == ("postgres_refused", Exit.FAILED)


@pytest.mark.stack
async def test_a_catalog_without_tables_is_named(there: Settings) -> None:
    server = there.postgres_dsn.get_secret_value().rsplit("/", 1)[0]
    error = await why_not(there, postgres_dsn=SecretStr(f"{server}/postgres"))
    assert error.exit_code == Exit.FAILED
    assert '"outbox" does not exist' in error.what


@pytest.mark.stack
async def test_a_store_that_is_away_is_named(there: Settings) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    error = await why_not(there, store_endpoint=endpoint, store_secret_key=SecretStr(CANARY))
    assert error.exit_code == Exit.UNREACHABLE
    assert endpoint in error.where
    assert "HEADRACE_STORE_ENDPOINT" in error.hint


@pytest.mark.stack
@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"store_url": "s3://no-such-bucket-here"}, "Create the bucket"),
        ({"store_secret_key": SecretStr(CANARY)}, "HEADRACE_STORE_SECRET_KEY"),
        ({"store_url": "ftp://somewhere"}, "HEADRACE_STORE_URL"),
    ],
)
async def test_a_store_that_refuses_is_named(there: Settings, changes: dict[str, Any], hint: str) -> None:
    error = await why_not(there, **changes)
    assert (error.code, error.exit_code) == ("store_refused", Exit.FAILED)
    assert hint in error.hint


@pytest.mark.stack
async def test_a_health_port_that_is_taken_is_named(there: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = await why_not(there, health_port=port)
    assert error.exit_code == Exit.FAILED
    assert error.where == f"127.0.0.1:{port}"


async def test_faust_that_does_not_start_ends_the_process_instead_of_leaving_it_idle(monkeypatch: pytest.MonkeyPatch):
    class Refusing:
        async def start(self) -> None:
            raise RuntimeError("consumer not started")

    class Ended(BaseException):
        """The process would be gone here."""

    def halt(exit_code: int, why: str) -> None:
        raise Ended(exit_code, why)

    monkeypatch.setattr(worker, "_halt", halt)
    with pytest.raises(Ended) as ended:
        await worker._serve(Refusing(), InputTopics(load_settings(_env_file=None), LARGE), [], asyncio.Event())
    assert ended.value.args[0] == Exit.BROKEN
    assert "consumer not started" in ended.value.args[1]
