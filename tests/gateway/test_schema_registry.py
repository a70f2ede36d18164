"""The Schema Registry's API, as its own clients use it."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from headrace.runtime.kafka import client_config
from headrace.schemas.codec import encode
from headrace.schemas.events import CaptureRequest
from headrace.schemas.registry import REGISTRY
from headrace.schemas.topics import CAPTURE_REQUESTS, TOPICS
from tests.gateway.gateway_world import Gateway, name
from tests.gateway.reading_world import cid, clip, frame, ingest, ldo
from tests.waiting import until

pytestmark = pytest.mark.stack

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
SITE = name("plant")
READ_S_MAX = 90.0
FRAMES = "edge.frames.v1-value"
CAPTURE = CaptureRequest(
    source_id="cam-1",
    site=SITE,
    request_id=str(uuid4()),
    requested_at_us=1_790_000_000_000_000,
    url="rtsp://camera/",
    mode="burst",
    fps=5.0,
    duration_s=2.0,
    frame_count=10,
)


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.client("device", [f"{SITE}/*"]) as opened:
        yield opened


@pytest.fixture(scope="module")
def messages(gateway: Gateway) -> dict[str, bytes]:
    """A message of every topic."""
    poison = name("poison").encode()
    ingest(gateway, frame(SITE, "cam-1"), clip(SITE, "cam-1"), cid(SITE, "scan-1"), ldo(SITE, "cell-1"))
    producer = Producer(client_config(gateway.settings) | {"bootstrap.servers": gateway.settings.kafka_bootstrap})
    producer.produce("edge.frames.v1", poison, partition=0)
    producer.produce(CAPTURE_REQUESTS.name, encode(CAPTURE))
    assert producer.flush(60) == 0
    until(
        lambda: gateway.rows("select 1 from dead_letters where value = %s", poison),
        READ_S_MAX,
        "the poison's dead letter",
    )
    found: dict[str, bytes] = {}
    consumer = Consumer(
        client_config(gateway.settings)
        | {
            "bootstrap.servers": gateway.settings.kafka_bootstrap,
            "group.id": name("reader"),
            "enable.auto.commit": False,
        }
    )
    try:
        counts = {topic: len(consumer.list_topics(topic, timeout=30).topics[topic].partitions) for topic in TOPICS}
        consumer.assign([TopicPartition(topic, one, 0) for topic, count in counts.items() for one in range(count)])
        deadline = time.monotonic() + READ_S_MAX
        while found.keys() != TOPICS.keys():
            assert time.monotonic() < deadline, f"no message came on {TOPICS.keys() - found.keys()}"
            message = consumer.poll(1.0)
            if message is not None and message.error() is None and _is_framed(message.value()):
                found.setdefault(message.topic(), message.value())
    finally:
        consumer.close()
    return found


def _is_framed(value: bytes | None) -> bool:
    return bool(value) and value[0] == 0 and REGISTRY.by_id(int.from_bytes(value[1:5], "big")) is not None


def test_confluents_deserializer_decodes_every_topic(gateway: Gateway, messages: dict[str, bytes]) -> None:
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroDeserializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    settings = {"url": gateway.url, "basic.auth.user.info": f"headrace:{gateway.key('device', [f'{SITE}/*'])}"}
    with SchemaRegistryClient(settings) as registry:
        for topic, value in messages.items():
            decoded = AvroDeserializer(registry)(value, SerializationContext(topic, MessageField.VALUE))
            schema = REGISTRY.by_id(int.from_bytes(value[1:5], "big"))
            assert schema is not None
            assert decoded is not None
            assert [*decoded] == [field["name"] for field in schema.published["fields"]]
        newest = registry.get_latest_version(FRAMES)
        assert newest.schema_id == REGISTRY.newest("Frame").id
        assert registry.lookup_schema(FRAMES, newest.schema).version == newest.version
        assert set(registry.get_subjects()) == {f"{topic}-value" for topic in TOPICS}


def test_each_topic_has_a_subject_with_its_versions(client: httpx.Client) -> None:
    answer = client.get("/subjects")
    assert (answer.json(), answer.headers["content-type"]) == (sorted(f"{topic}-value" for topic in TOPICS), MEDIA_TYPE)
    for topic in TOPICS.values():
        subject = f"/subjects/{topic.name}-value/versions"
        newest = REGISTRY.newest(topic.event.__name__)
        assert client.get(subject).json()[-1] == newest.version
        said = client.get(f"{subject}/latest").json()
        assert (said["subject"], said["id"], said["version"]) == (f"{topic.name}-value", newest.id, newest.version)
        assert json.loads(said["schema"]) == newest.published
        assert client.get(f"{subject}/{newest.version}").json() == said == client.get(f"{subject}/-1").json()
        assert client.get(f"{subject}/latest/schema").json() == newest.published


def test_an_id_gives_its_schema_and_where_it_is(client: httpx.Client) -> None:
    ingested = REGISTRY.newest("Ingested")
    topics = [topic.name for topic in TOPICS.values() if topic.event.__name__ == "Ingested"]
    answer = client.get(f"/schemas/ids/{ingested.id}", params={"subject": f"{topics[0]}-value"})
    assert json.loads(answer.json()["schema"]) == ingested.published
    assert "immutable" in answer.headers["cache-control"] or "max-age=86400" in answer.headers["cache-control"]
    assert client.get(f"/schemas/ids/{ingested.id}/schema").json() == ingested.published
    assert client.get(f"/schemas/ids/{ingested.id}/subjects").json() == sorted(f"{one}-value" for one in topics)
    versions = client.get(f"/schemas/ids/{ingested.id}/versions").json()
    assert {"subject": f"{topics[0]}-value", "version": ingested.version} in versions
    assert client.get("/schemas/types").json() == ["AVRO"]
    assert client.get("/mode").json() == client.get(f"/mode/{FRAMES}").json() == {"mode": "READONLY"}
    assert client.get("/config").json() == client.get(f"/config/{FRAMES}").json()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/schemas/ids/7", 404, 40403),
        ("/schemas/ids/x", 404, 40403),
        ("/schemas/ids/-1", 404, 40403),
        (f"/schemas/ids/{2**31}/versions", 404, 40403),
        (f"/schemas/ids/{'9' * 5000}", 404, 40403),
        ("/subjects/nobody/versions", 404, 40401),
        ("/subjects/nobody/versions/latest", 404, 40401),
        (f"/subjects/{FRAMES}/versions/99", 404, 40402),
        (f"/subjects/{FRAMES}/versions/99/schema", 404, 40402),
        (f"/subjects/{FRAMES}/versions/0", 422, 42202),
        (f"/subjects/{FRAMES}/versions/new", 422, 42202),
        ("/mode/nobody", 404, 40401),
        ("/config/nobody", 404, 40401),
    ],
)
def test_errors_are_those_of_the_registry(client: httpx.Client, path: str, status: int, code: int) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    assert answer.json().keys() == {"error_code", "message"}
    assert answer.headers["content-type"] == MEDIA_TYPE


def test_a_schema_is_looked_up_by_what_it_says(client: httpx.Client) -> None:
    newest = REGISTRY.newest("Frame")
    text = json.dumps(newest.published | {"doc": "another comment"}, indent=2)
    found = client.post(f"/subjects/{FRAMES}?normalize=false&deleted=false", json={"schema": text})
    assert (found.status_code, found.json()["id"], found.json()["version"]) == (200, newest.id, newest.version)


@pytest.mark.parametrize(
    ("subject", "body", "status", "code"),
    [
        (FRAMES, {"schema": json.dumps(REGISTRY.newest("Clip").published)}, 404, 40403),
        (FRAMES, {"schema": '{"type":"record","name":"Frame","fields":[]}'}, 404, 40403),
        (FRAMES, {"schema": "{"}, 422, 42201),
        (FRAMES, {"schema": '{"type":"nothing"}'}, 422, 42201),
        (FRAMES, {"schema": "[" * 900 + "]" * 900}, 404, 40403),
        (FRAMES, {"schema": 1}, 422, 42201),
        (FRAMES, {"schema": '"string"', "schemaType": "JSON"}, 422, 42201),
        (FRAMES, {"schemaType": []}, 422, 42201),
        (FRAMES, {"schema": '"' + "x" * 70_000 + '"'}, 422, 42201),
        (FRAMES, [], 422, 42201),
        ("nobody", {"schema": '"string"'}, 404, 40401),
    ],
)
def test_a_schema_that_is_not_known_is_not_found(
    client: httpx.Client, subject: str, body: Any, status: int, code: int
) -> None:
    answer = client.post(f"/subjects/{subject}", json=body)
    assert (answer.status_code, answer.json()["error_code"]) == (status, code), answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"/subjects/{FRAMES}"),
        ("DELETE", f"/subjects/{FRAMES}/versions/1"),
        ("PUT", "/config"),
        ("PUT", f"/config/{FRAMES}"),
        ("PUT", "/mode"),
        ("PUT", f"/mode/{FRAMES}"),
    ],
)
def test_nothing_can_be_written(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path, json={"schema": '"string"'})
    assert (answer.status_code, answer.json()["error_code"]) == (405, 42205)


LDOS = "edge.ldos.v1-value"


def test_confluents_serializer_publishes_with_its_defaults(gateway: Gateway) -> None:
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    settings = {"url": gateway.url, "basic.auth.user.info": f"headrace:{gateway.key('device', [f'{SITE}/*'])}"}
    ldo_id, source = name("ldo"), name("cell")
    event = {
        "source_id": source,
        "site": SITE,
        "captured_at": datetime.now(UTC),
        "sequence": time.time_ns() // 1000,
        "ldo_id": ldo_id,
        "body": b'{"sensor_data":{"t":1},"context":{},"prediction":{}}',
        "clip_sha256": None,
    }
    with SchemaRegistryClient(settings) as registry:
        text = json.dumps(REGISTRY.newest("Ldo").published, indent=4)
        value = AvroSerializer(registry, text)(event, SerializationContext("edge.ldos.v1", MessageField.VALUE))
        assert value is not None
        assert int.from_bytes(value[1:5], "big") == REGISTRY.newest("Ldo").id
    producer = Producer(client_config(gateway.settings) | {"bootstrap.servers": gateway.settings.kafka_bootstrap})
    producer.produce("edge.ldos.v1", value, key=source.encode())
    assert producer.flush(60) == 0
    sql = "select kind, site from records where source_id = %s"
    until(lambda: gateway.rows(sql, source), READ_S_MAX, "the record of the LDO")
    assert gateway.rows(sql, source) == [("ldo", SITE)]


def test_confluents_client_asks_whether_a_schema_is_compatible(gateway: Gateway) -> None:
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    settings = {"url": gateway.url, "basic.auth.user.info": f"headrace:{gateway.key('device', [f'{SITE}/*'])}"}
    published = REGISTRY.newest("Ldo").published
    grown = published | {"fields": [*published["fields"], {"name": "note", "type": "string", "default": ""}]}
    broken = published | {"fields": [*published["fields"], {"name": "note", "type": "string"}]}
    with SchemaRegistryClient(settings) as registry:
        assert registry.register_schema(LDOS, Schema(json.dumps(published), "AVRO")) == REGISTRY.newest("Ldo").id
        assert registry.test_compatibility(LDOS, Schema(json.dumps(grown), "AVRO")) is True
        assert registry.test_compatibility(LDOS, Schema(json.dumps(broken), "AVRO"), 1) is False
        assert registry.test_compatibility_all_versions(LDOS, Schema(json.dumps(grown), "AVRO")) is True
        with pytest.raises(SchemaRegistryError) as refused:
            registry.register_schema(LDOS, Schema(json.dumps(grown), "AVRO"))
        assert (refused.value.http_status_code, refused.value.error_code) == (422, 42205)
        assert registry.get_subjects(subject_prefix="edge.ldos") == [LDOS]


def registered(schema: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"schema": json.dumps(schema), **members}


FRAME = REGISTRY.newest("Frame").published
REVERSED = {key: FRAME[key] for key in reversed(FRAME)}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
BARE = {key: FRAME[key] for key in FRAME if key != "doc"}


def frame_with(name: str, **changes: Any) -> dict[str, Any]:
    fields = [field | changes if field["name"] == name else field for field in FRAME["fields"]]
    return FRAME | {"fields": fields}


@pytest.mark.parametrize(
    "schema",
    [
        FRAME,
        REVERSED,
        BARE,
        frame_with("sequence", doc="another comment", type={"type": "long"}),
        frame_with("captured_at", type="long"),
        FRAME | {"name": "headrace.v1.Frame", "namespace": ""},
    ],
    ids=["published", "keys in another order", "no comment", "long form", "no logical type", "full name"],
)
def test_registering_a_known_schema_returns_its_id(client: httpx.Client, schema: dict[str, Any]) -> None:
    for path in (f"/subjects/{FRAMES}/versions", f"/subjects/{FRAMES}/versions?normalize=true&format="):
        answer = client.post(path, json=registered(schema, schemaType="AVRO", references=[], metadata=None))
        assert (answer.status_code, answer.json()) == (200, {"id": REGISTRY.newest("Frame").id})


@pytest.mark.parametrize(
    ("subject", "body", "code"),
    [
        (FRAMES, registered(REGISTRY.newest("Clip").published), 42205),
        (FRAMES, registered(frame_with("sequence", type="int")), 42205),
        (
            FRAMES,
            registered(frame_with("captured_at", type={"type": "long", "logicalType": "timestamp-millis"})),
            42205,
        ),
        ("nobody-value", registered(FRAME), 42205),
        (FRAMES, {"schema": "{"}, 42201),
        (FRAMES, {"schema": '{"type":"nothing"}'}, 42201),
        (FRAMES, registered(FRAME, schemaType="PROTOBUF"), 42201),
        (FRAMES, {}, 42201),
    ],
)
def test_registering_another_schema_is_refused(client: httpx.Client, subject: str, body: Any, code: int) -> None:
    answer = client.post(f"/subjects/{subject}/versions", json=body)
    assert (answer.status_code, answer.json()["error_code"]) == (422, code), answer.text


def test_compatibility_says_why_not(client: httpx.Client) -> None:
    body = registered(frame_with("width", type="string"))
    for path in (f"/compatibility/subjects/{FRAMES}/versions/latest", f"/compatibility/subjects/{FRAMES}/versions"):
        answer = client.post(path, params={"verbose": "true"}, json=body).json()
        assert answer == {"is_compatible": False, "messages": ["version 1: width: string does not read int"]}
    for subject, version, status, code in [
        ("nobody", "1", 404, 40401),
        (FRAMES, "99", 404, 40402),
        (FRAMES, "0", 422, 42202),
    ]:
        answer = client.post(f"/compatibility/subjects/{subject}/versions/{version}", json=body)
        assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    refused = client.post(f"/compatibility/subjects/{FRAMES}/versions/1", json={"schema": "{"})
    assert (refused.status_code, refused.json()["error_code"]) == (422, 42201)


@pytest.mark.parametrize("prefix", ["edge.", ":*:edge.", ":.:edge."])
def test_subjects_are_listed_by_prefix(client: httpx.Client, prefix: str) -> None:
    listed = client.get("/subjects", params={"subjectPrefix": prefix, "deleted": "false"}).json()
    assert listed == sorted(f"{topic}-value" for topic in TOPICS if topic.startswith("edge."))
    assert client.get("/subjects", params={"subjectPrefix": "none"}).json() == []


def test_the_root_is_an_empty_object(client: httpx.Client) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (200, {}, MEDIA_TYPE)


def test_who_shows_no_key_is_told_so_in_the_registrys_words(gateway: Gateway) -> None:
    with gateway.anonymous() as anybody:
        for answer in (anybody.get("/subjects"), anybody.put("/mode"), anybody.get("/schemas/ids/7")):
            assert (answer.status_code, answer.json()["error_code"]) == (401, 401)
            assert "WWW-Authenticate" in answer.headers
            assert answer.headers["content-type"] == MEDIA_TYPE
