from headrace.producers.bodies import describe_clip, describe_frame
from headrace.producers.camera import Camera, CameraReport
from headrace.producers.delivery import Acknowledged, Delivery, NotDeliveredError
from headrace.producers.device import Device, Reported
from headrace.producers.publisher import Publisher
from headrace.producers.spool.spooled_publisher import SpooledPublisher

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
