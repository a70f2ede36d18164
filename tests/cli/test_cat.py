"""`headrace cat` against topics of a real broker."""

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from headrace.runtime.errors import Exit
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.events import Cid
from headrace.schemas.topics import TOPICS
from tests.cli.command_runs import Command
from tests.processes import environment_of

TIME_US = 1_790_000_000_000_000


@pytest.fixture
def stack_environment(stack_settings: Settings, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the stack in the environment; set after `command` has cleared it."""
    for name, value in environment_of(stack_settings).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def published(stack_settings: Settings) -> Iterator[str]:
    """Two scans and something undecodable, of a source of their own."""
    source = f"cat-{uuid4().hex[:8]}"
    producer = Producer(client_config(stack_settings) | {"log_level": 0})
    for number, value in enumerate((*(scan(source, number) for number in range(2)), b"junk")):
        producer.produce("edge.cids.v1", value, key=source.encode(), headers=[("ce_id", str(number).encode())])
    assert producer.flush(30) == 0
    yield source
    del producer


def scan(source: str, number: int) -> bytes:
    return encode(Cid(source_id=source, site="plant", captured_at_us=TIME_US, sequence=number, code=f"C-{number}"))


@pytest.mark.stack
@pytest.mark.usefixtures("stack_environment")
def test_cat_prints_a_topic_as_json_lines(command: Command, published: str) -> None:
    ended = command("cat", "edge.cids.v1")
    assert ended.code == Exit.OK
    lines = [line for line in map(json.loads, ended.out.splitlines()) if line["key"] == published]
    assert [line["event"]["code"] for line in lines[:2]] == ["C-0", "C-1"]
    assert [line["headers"] for line in lines] == [{"ce_id": str(number)} for number in range(3)]
    assert lines[2]["undecodable"].startswith("not_framed: ")
    assert "event" not in lines[2]
    offsets = [line["at"]["offset"] for line in lines]
    assert offsets == list(range(offsets[0], offsets[0] + 3))


@pytest.mark.stack
@pytest.mark.usefixtures("stack_environment", "published")
def test_cat_stops_where_it_is_told_to(command: Command) -> None:
    assert len(command("cat", "edge.cids.v1", "--limit", "1").out.splitlines()) == 1
    assert command("cat", "edge.cids.v1", "--to", "2000-01-01").out == b""
    assert command("cat", "edge.cids.v1", "--from", "2100-01-01").out == b""


@pytest.mark.stack
@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.usefixtures("stack_environment")
def test_cat_reads_every_topic_of_the_contract(command: Command, topic: str) -> None:
    ended = command("cat", topic, "--limit", "5")
    assert ended.code == Exit.OK
    for line in ended.out.splitlines():
        assert json.loads(line)["at"]["topic"] == topic


@pytest.mark.stack
@pytest.mark.usefixtures("stack_environment")
def test_cat_prints_one_partition_from_an_offset_one_key_and_headers_alone(command: Command, published: str) -> None:
    mine = [json.loads(line) for line in command("cat", "edge.cids.v1", "--key", published).out.splitlines()]
    assert [line["key"] for line in mine] == [published] * 3
    partition, offset = str(mine[0]["at"]["partition"]), mine[0]["at"]["offset"]
    there = ("cat", "edge.cids.v1", "--partition", partition, "--offset", str(offset + 1))
    lines = [json.loads(line) for line in command(*there, "--max", "1").out.splitlines()]
    assert [line["at"] for line in lines] == [mine[1]["at"]]
    headers = [json.loads(line) for line in command(*there, "--key", published, "--headers-only").out.splitlines()]
    assert [set(line) for line in headers] == [{"at", "key", "headers"}] * 2
    assert [line["headers"] for line in headers] == [{"ce_id": "1"}, {"ce_id": "2"}]


@pytest.mark.stack
@pytest.mark.usefixtures("stack_environment")
@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--offset", "1"), "pass --partition"),
        (("--partition", "0", "--offset", "1", "--from", "2026-01-01"), "and not --from"),
        (("--partition", "99"), "edge.cids.v1 has no partition 99"),
    ],
)
def test_cat_refuses_what_makes_no_sense(command: Command, args: tuple[str, ...], named: str) -> None:
    ended = command("cat", "edge.cids.v1", *args)
    assert ended.code == Exit.USAGE
    assert named in ended.err
