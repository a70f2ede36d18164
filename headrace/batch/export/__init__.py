from headrace.batch.export.manifest import ExportResult, Shard
from headrace.batch.export.request import ExportFormat, ExportRequest, parse_bounds
from headrace.batch.export.run import export

__all__ = ["ExportFormat", "ExportRequest", "ExportResult", "Shard", "export", "parse_bounds"]
