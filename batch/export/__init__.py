from batch.export.job import export
from batch.export.request import Format, Request, bounds_of
from batch.export.run import Result, Shard

__all__ = ["Format", "Request", "Result", "Shard", "bounds_of", "export"]
