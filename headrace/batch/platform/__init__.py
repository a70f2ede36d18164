from headrace.batch.platform.api import RequestPolicy
from headrace.batch.platform.boxes import ClusterMethod, ClusterRule
from headrace.batch.platform.factory import ImportEndpoints, load_credentials, open_import
from headrace.batch.platform.payloads import source_api
from headrace.batch.platform.run import FRAMES, SEQUENCES, ImportOptions, ImportRun, PublishFrame
from headrace.batch.platform.statistics import ImportStatistics

__all__ = [
    "FRAMES",
    "SEQUENCES",
    "ClusterMethod",
    "ClusterRule",
    "ImportEndpoints",
    "ImportOptions",
    "ImportRun",
    "ImportStatistics",
    "PublishFrame",
    "RequestPolicy",
    "load_credentials",
    "open_import",
    "source_api",
]
