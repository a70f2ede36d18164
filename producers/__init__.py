from producers.bodies import describe_clip, describe_frame
from producers.camera import Camera, CameraReport
from producers.delivery import Acknowledged, Delivery, NotDelivered
from producers.device import Device, Reported
from producers.publisher import Publisher
from producers.spool_publisher import SpooledPublisher

__all__ = [
    "Acknowledged",
    "Camera",
    "CameraReport",
    "Delivery",
    "Device",
    "NotDelivered",
    "Publisher",
    "Reported",
    "SpooledPublisher",
    "describe_clip",
    "describe_frame",
]
