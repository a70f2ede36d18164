from streams.consumers.body import Body, BodyCorrupt
from streams.consumers.consume import consume

__all__ = ["Body", "BodyCorrupt", "consume"]
