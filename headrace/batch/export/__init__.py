from headrace.batch.export.job import export
from headrace.batch.export.request import ExportFormat, ExportRequest, bounds_of
from headrace.batch.export.run import ExportResult, Shard

__all__ = ["ExportFormat", "ExportRequest", "ExportResult", "Shard", "bounds_of", "export"]
