"""URLs into the store and the catalog."""

from batch.fetching.client import IngestClient
from batch.fetching.errors import IngestError
from batch.fetching.outcome import Outcome, Status, Tally

__all__ = ["IngestClient", "IngestError", "Outcome", "Status", "Tally"]
