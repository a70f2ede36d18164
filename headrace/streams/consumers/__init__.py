from headrace.store.blobs.body import Body
from headrace.store.errors import BlobCorruptError
from headrace.streams.consumers.consume import consume

__all__ = ["BlobCorruptError", "Body", "consume"]
