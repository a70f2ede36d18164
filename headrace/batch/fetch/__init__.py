from headrace.batch.fetch.client import IngestClient
from headrace.batch.fetch.errors import IngestError
from headrace.batch.fetch.outcome import FetchOutcome, FetchStatus, FetchTally

__all__ = ["FetchOutcome", "FetchStatus", "FetchTally", "IngestClient", "IngestError"]
