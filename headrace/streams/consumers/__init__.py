from headrace.store.blobs.body import Body
from headrace.store.errors import BlobArchivedError, BlobCorruptError
from headrace.streams.consumers.consume import consume

__all__ = ["BlobArchivedError", "BlobCorruptError", "Body", "consume"]
