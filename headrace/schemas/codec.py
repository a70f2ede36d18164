"""Events to bytes and back: the registry wire format, `00`, four bytes of schema id, Avro body.

The decoder is bounded by the size of the message. Input schemas have no arrays, maps or recursion (a test enforces it),
so a decoded message has only slices of its bytes and a fixed number of numbers. The count of an array in a result
schema is checked before decoding.
"""

from io import BytesIO
from typing import Any, TypeVar

from fastavro import schemaless_reader, schemaless_writer

from headrace.schemas.avro_guard import check_arrays, check_fields
from headrace.schemas.events import (
    CaptureRequest,
    Cid,
    Clip,
    DeadLetter,
    Event,
    Frame,
    Ingested,
    Ldo,
    PerceivedFrame,
    PreprocessedFrame,
    Region,
)
from headrace.schemas.registry import REGISTRY, Registry
from headrace.schemas.reject import RejectCode, RejectedError

_MAGIC = 0
_PREFIX_BYTES = 5

# Avro names a timestamp by its meaning; Python adds the unit.
_RENAMED = {
    "captured_at": "captured_at_us",
    "ingested_at": "ingested_at_us",
    "rejected_at": "rejected_at_us",
    "requested_at": "requested_at_us",
    "timestamp": "timestamp_us",
}

E = TypeVar("E", bound=Event)


def encode(event: Event, registry: Registry = REGISTRY) -> bytes:
    """Return the event in the wire format, with the newest version of its schema.

    Raises:
        ValueError: a field does not match its schema; the message names the field.
    """
    name = type(event).__name__
    schema = registry.newest(name)
    out = BytesIO()
    out.write(b"\x00" + schema.id.to_bytes(4, "big"))
    try:
        schemaless_writer(out, schema.parsed, _to_avro(event))
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"{name} does not fit its schema: {error}") from error
    return out.getvalue()


def decode(raw: bytes | None, expected: type[E], registry: Registry = REGISTRY) -> E:
    """Return the event in `raw`, written with any version of its schema.

    Raises:
        RejectedError: `raw` is absent, not in the wire format, of an unknown schema, of another event, or undecodable.
    """
    if raw is None:
        raise RejectedError(RejectCode.EMPTY_VALUE, "the message has no value")
    if len(raw) < _PREFIX_BYTES or raw[0] != _MAGIC:
        raise RejectedError(RejectCode.NOT_FRAMED, "the value does not begin with 00 and four bytes of schema id")
    written = registry.by_id(int.from_bytes(raw[1:_PREFIX_BYTES], "big"))
    if written is None:
        raise RejectedError(RejectCode.UNKNOWN_SCHEMA, f"no schema has the id {int.from_bytes(raw[1:5], 'big')}")
    if written.name != expected.__name__:
        raise RejectedError(
            RejectCode.WRONG_EVENT, f"this topic carries {expected.__name__}, the message is a {written.name}"
        )
    newest = registry.newest(written.name)
    if written.has_array:
        check_arrays(written.parsed, raw, _PREFIX_BYTES)
    source = BytesIO(raw)
    source.seek(_PREFIX_BYTES)
    try:
        # Schema resolution is slow, so it is used only for older versions.
        values: Any = schemaless_reader(source, written.parsed, None if written is newest else newest.parsed)
    except Exception as error:  # noqa: BLE001 - fastavro may raise anything
        raise RejectedError(RejectCode.UNDECODABLE, f"the value does not follow its schema: {error}") from None
    if source.tell() != len(raw):
        raise RejectedError(RejectCode.UNDECODABLE, f"{len(raw) - source.tell()} bytes follow the end of the value")
    check_fields(written.fields, raw, _PREFIX_BYTES)
    for name in _RENAMED.keys() & values.keys():
        values[_RENAMED[name]] = values.pop(name)
    if "regions" in values:
        values["regions"] = tuple(Region(**region) for region in values["regions"])
    return expected(**values)


def _to_avro(event: Event) -> dict[str, Any]:
    values = {name: getattr(event, _RENAMED.get(name, name)) for name in _FIELDS[type(event)]}
    if isinstance(event, PerceivedFrame):
        values["regions"] = [{name: getattr(region, name) for name in Region.__slots__} for region in event.regions]
    return values


_FIELDS: dict[type, tuple[str, ...]] = {
    kind: tuple(field["name"] for field in REGISTRY.newest(kind.__name__).published["fields"])
    for kind in (Cid, Frame, Clip, Ldo, Ingested, DeadLetter, PreprocessedFrame, PerceivedFrame, CaptureRequest)
}
