from store.errors import BlobCorrupt
from streams.consumers.body import Body
from streams.consumers.consume import consume

__all__ = ["BlobCorrupt", "Body", "consume"]
