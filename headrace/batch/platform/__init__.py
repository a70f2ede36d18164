from headrace.batch.platform.api import RetryTimes
from headrace.batch.platform.clusters import Method, Rule
from headrace.batch.platform.credentials import load_credentials
from headrace.batch.platform.day import Statistics
from headrace.batch.platform.factory import Between, opened
from headrace.batch.platform.payloads import source_api
from headrace.batch.platform.run import FRAMES, SEQUENCES, Import, ImportOptions, PublishFrame

__all__ = [
    "FRAMES",
    "SEQUENCES",
    "Between",
    "Import",
    "ImportOptions",
    "Method",
    "PublishFrame",
    "RetryTimes",
    "Rule",
    "Statistics",
    "load_credentials",
    "opened",
    "source_api",
]
