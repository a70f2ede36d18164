from producers.delivery import Acknowledged, Delivery, NotDelivered
from producers.device import Device, Reported
from producers.publisher import Publisher

__all__ = ["Acknowledged", "Delivery", "Device", "NotDelivered", "Publisher", "Reported"]
