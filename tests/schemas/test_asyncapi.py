"""The AsyncAPI document: up to date, whole, and saying of each topic what the code does."""

import json
import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pytest

from headrace.schemas import asyncapi
from headrace.schemas.codec import encode
from headrace.schemas.events import Cid
from headrace.schemas.headers import headers_for
from headrace.schemas.limits import CLOCK_SET_US_MIN
from headrace.schemas.registry import REGISTRY
from headrace.schemas.topics import TOPICS

DOCUMENT = asyncapi.asyncapi()
COMMITTED = Path(__file__).parents[2] / "docs" / "asyncapi.json"
CID = Cid(source_id="camera-1", site="plant", captured_at_us=1, sequence=2, code="C")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def references(node: Any) -> Iterator[str]:
    match node:
        case {"$ref": str(target)}:
            yield target
        case dict():
            for child in node.values():
                yield from references(child)
        case list():
            for child in node:
                yield from references(child)


def resolve(pointer: str) -> Any:
    node = DOCUMENT
    for part in pointer.removeprefix("#/").split("/"):
        node = node[part]
    return node


def test_the_committed_document_is_up_to_date() -> None:
    assert COMMITTED.read_text("utf-8") == asyncapi.text(), "run: make contract"


def test_running_the_module_prints_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(asyncapi.__file__, run_name="__main__")
    assert json.loads(capsys.readouterr().out) == DOCUMENT


def test_it_holds_what_asyncapi_3_requires() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    assert set(DOCUMENT) <= {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}


def test_every_reference_leads_somewhere() -> None:
    referenced = list(references(DOCUMENT))
    assert len(referenced) == 3 * len(TOPICS)
    for target in referenced:
        assert resolve(target)


def test_every_topic_is_a_channel_with_kafkas_settings() -> None:
    assert {channel["address"] for channel in DOCUMENT["channels"].values()} == set(TOPICS)
    for name, topic in TOPICS.items():
        kafka = DOCUMENT["channels"][name]["bindings"]["kafka"]
        assert kafka["topic"] == name
        assert kafka["topicConfiguration"]["max.message.bytes"] == topic.message_bytes_max
        assert kafka["topicConfiguration"]["retention.ms"] == topic.retention_s * 1000


def test_the_service_receives_from_the_edge_and_sends_the_rest() -> None:
    for name, operation in DOCUMENT["operations"].items():
        channel = resolve(operation["channel"]["$ref"])
        action = "receive" if channel["address"].startswith("edge.") else "send"
        assert operation["action"] == action
        assert name.startswith(action)
    assert len(DOCUMENT["operations"]) == len(TOPICS)


@pytest.mark.parametrize("name", DOCUMENT["components"]["messages"])
def test_every_message_carries_the_newest_schema_and_its_id(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    assert message["payload"]["schemaFormat"] == "application/vnd.apache.avro;version=1.9.0"
    assert fastavro.parse_schema(message["payload"]["schema"])["name"] == f"headrace.v1.{name}"
    assert message["x-schema-id"] == REGISTRY.newest(name).id


def test_headers_are_those_that_are_written() -> None:
    written = headers_for(CID, subject="s", traceparent=f"{TRACE} a=1")
    declared = DOCUMENT["components"]["messages"]["Cid"]["headers"]
    assert list(declared["properties"]) == [name for name, _ in written]
    with_clock = replace(CID, captured_at_us=CLOCK_SET_US_MIN)
    assert declared["required"] == [name for name, _ in headers_for(with_clock, subject="s", traceparent=None)]
    for name, value in written:
        assert declared["properties"][name].get("const", value.decode()) == value.decode()


def test_the_schema_id_stands_where_the_binding_says() -> None:
    message = DOCUMENT["components"]["messages"]["Cid"]
    assert message["bindings"]["kafka"]["schemaIdLocation"] == "payload"
    assert encode(CID)[:5] == b"\x00" + message["x-schema-id"].to_bytes(4, "big")
