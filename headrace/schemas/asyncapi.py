"""The contract as an AsyncAPI 3.0 document, generated from the topics and the Avro schemas alone.

`python -m headrace.schemas.asyncapi` prints it; a test compares it with the committed `docs/asyncapi.json`. The
operations are those of the service: it receives what sources publish, and sends its announcements and results.
"""

import json
import sys
from typing import Any

from headrace.schemas.events import Origin
from headrace.schemas.headers import CLOCK, TRACEPARENT, TRACESTATE
from headrace.schemas.registry import REGISTRY, Schema
from headrace.schemas.topics import TOPICS, Topic

_CONTRACT_VERSION = "1.0.0"
_BINDING_VERSION = "0.5.0"  # of AsyncAPI's Kafka bindings
_AVRO = (
    "application/vnd.apache.avro;version=1.9.0"  # the newest Avro version that AsyncAPI 3.0 lists; compatible with 1.12
)
_WIRE_FORMAT = "application/vnd.apache.avro+confluent"

_ABOUT = (
    "Every frame, clip, component scan and labelled data object that a device has published is stored once, "
    "catalogued, and announced once. Values are Avro in the registry wire format: 00, four bytes of schema id, body. "
    "The id is the upper 31 bits of the schema's CRC-64-AVRO fingerprint, so consumers need no schema registry. "
    "Delivery is at least once up to the catalog; announcements reach read_committed consumers exactly once."
)
_HEADERS = {
    "ce_specversion": "CloudEvents version.",
    "ce_id": "In events of a source, its sequence number; in events of the service, the event id.",
    "ce_source": "The source, /sites/<site>/sources/<source> with both percent-encoded; /headrace in dead letters.",
    "ce_type": "The type of the event.",
    "ce_time": "Time of the capture, the ingest or the rejection; RFC 3339, UTC.",
    "ce_subject": "SHA-256 of the record; in dead letters topic/partition/offset, in capture requests the request id.",
    "content-type": "Media type of the value.",
}


def asyncapi() -> dict[str, Any]:
    """Return the document; the same schemas and topics always give the same one."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headrace",
            "version": _CONTRACT_VERSION,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": _WIRE_FORMAT,
        "channels": {topic.name: _channel(topic) for topic in TOPICS.values()},
        "operations": dict(_operation(topic) for topic in TOPICS.values()),
        "components": {
            "messages": {topic.event.__name__: _message(topic) for topic in TOPICS.values()},
        },
    }


def text() -> str:
    """Return the document as it is committed."""
    return json.dumps(asyncapi(), indent=2, ensure_ascii=False) + "\n"


def _channel(topic: Topic) -> dict[str, Any]:
    event = topic.event.__name__
    return {
        "address": topic.name,
        "description": topic.purpose,
        "messages": {event: {"$ref": f"#/components/messages/{event}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": ["delete"],
                    "retention.ms": topic.retention_s * 1000,
                    "max.message.bytes": topic.message_bytes_max,
                },
                "bindingVersion": _BINDING_VERSION,
            }
        },
    }


def _operation(topic: Topic) -> tuple[str, dict[str, Any]]:
    receives = topic.name.startswith("edge.")
    name = ("receive " if receives else "send ") + topic.name.removesuffix(".v1").replace(".", " ")
    first, *rest = name.split()
    return first + "".join(word.capitalize() for word in rest), {
        "action": "receive" if receives else "send",
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "summary": topic.purpose,
        "messages": [{"$ref": f"#/channels/{topic.name}/messages/{topic.event.__name__}"}],
    }


def _message(topic: Topic) -> dict[str, Any]:
    schema = REGISTRY.newest(topic.event.__name__)
    return {
        "name": schema.name,
        "title": schema.published["doc"],
        "contentType": _WIRE_FORMAT,
        "headers": _headers(schema, topic.event),
        "payload": {"schemaFormat": _AVRO, "schema": schema.published},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": topic.key},
                "schemaIdLocation": "payload",
                "schemaIdPayloadEncoding": "confluent",
                "bindingVersion": _BINDING_VERSION,
            }
        },
        "x-schema-id": schema.id,
        "x-schema-version": schema.version,
    }


def _headers(schema: Schema, event: type) -> dict[str, Any]:
    properties: dict[str, Any] = {name: {"type": "string", "description": about} for name, about in _HEADERS.items()}
    properties["ce_specversion"]["const"] = "1.0"
    properties["ce_type"]["const"] = f"headrace.{schema.name.lower()}.v1"
    properties["content-type"]["const"] = _WIRE_FORMAT
    if issubclass(event, Origin):
        properties[CLOCK] = {"type": "string", "const": "unset", "description": "Set where the source had no clock."}
    for name in (TRACEPARENT, TRACESTATE):
        properties[name] = {"type": "string", "description": "W3C trace context; optional."}
    return {"type": "object", "required": list(_HEADERS), "properties": properties}


if __name__ == "__main__":
    sys.stdout.write(text())
