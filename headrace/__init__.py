"""The public API of Headrace.

>>> from headrace import Publisher, Device, Camera, IngestClient, consume, replay

Names are imported at their first use, so that `headrace --help` and a device that only publishes load only what they
need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace import ldo_sink
    from headrace.batch.fetch.client import IngestClient
    from headrace.batch.fetch.errors import IngestError
    from headrace.batch.labels.functions import labelling_function
    from headrace.batch.labels.view import RecordView
    from headrace.batch.replay.call import replay
    from headrace.producers import Camera, Device, Publisher
    from headrace.streams.consumers import consume

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
    "replay",
]

_HOMES = {
    "Camera": "headrace.producers",
    "Device": "headrace.producers",
    "IngestClient": "headrace.batch.fetch.client",
    "IngestError": "headrace.batch.fetch.errors",
    "Publisher": "headrace.producers",
    "RecordView": "headrace.batch.labels.view",
    "consume": "headrace.streams.consumers",
    "labelling_function": "headrace.batch.labels.functions",
    "replay": "headrace.batch.replay.call",
}
__version__: str
_EXTRAS = {"Camera": "camera", "IngestClient": "service", "IngestError": "service", "replay": "service"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("headrace")
    if name == "ldo_sink":
        return import_module("headrace.ldo_sink")
    if name not in _HOMES:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if name not in _EXTRAS:
            raise
        raise ImportError(
            f"headrace.{name} needs {error.name}, which is not installed: pip install 'headrace[{_EXTRAS[name]}]'"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
