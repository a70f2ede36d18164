"""Headrace's public face.

>>> from headrace import Publisher, Device, Camera, IngestClient, consume

Names are imported when they are first used, so that `headrace --help` and a device that only publishes do not load what
they do not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch.fetching import IngestClient, IngestError
    from batch.labelling import RecordView, labelling_function
    from headrace import ldo_sink
    from producers import Camera, Device, Publisher
    from streams.consumers import consume

__all__ = [
    "Camera",
    "Device",
    "IngestClient",
    "IngestError",
    "Publisher",
    "RecordView",
    "consume",
    "labelling_function",
    "ldo_sink",
]

_HOMES = {
    "Camera": "producers",
    "Device": "producers",
    "IngestClient": "batch.fetching",
    "IngestError": "batch.fetching",
    "Publisher": "producers",
    "RecordView": "batch.labelling",
    "consume": "streams.consumers",
    "labelling_function": "batch.labelling",
}


def __getattr__(name: str) -> Any:
    if name == "ldo_sink":
        return import_module("headrace.ldo_sink")
    if name not in _HOMES:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
