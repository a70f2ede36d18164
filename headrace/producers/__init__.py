"""What cameras and devices publish through. `Camera` is imported at first use: a device needs no video libraries."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.producers.bodies import describe_clip, describe_frame
from headrace.producers.delivery import Acknowledged, Delivery, NotDeliveredError
from headrace.producers.device import Device, Reported
from headrace.producers.publisher import Publisher
from headrace.producers.spool.spooled_publisher import SpooledPublisher

if TYPE_CHECKING:
    from headrace.producers.camera import Camera, CameraReport

__all__ = [
    "Acknowledged",
    "Camera",
    "CameraReport",
    "Delivery",
    "Device",
    "NotDeliveredError",
    "Publisher",
    "Reported",
    "SpooledPublisher",
    "describe_clip",
    "describe_frame",
]


def __getattr__(name: str) -> Any:
    if name not in {"Camera", "CameraReport"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("headrace.producers.camera"), name)
