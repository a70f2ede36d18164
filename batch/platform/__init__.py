from batch.platform.api import Patience
from batch.platform.clusters import Method, Rule
from batch.platform.credentials import load_credentials
from batch.platform.day import Statistics
from batch.platform.opening import Between, opened
from batch.platform.payloads import source_api
from batch.platform.run import FRAMES, SEQUENCES, Import, Options, PublishFrame

__all__ = [
    "FRAMES",
    "SEQUENCES",
    "Between",
    "Import",
    "Method",
    "Options",
    "Patience",
    "PublishFrame",
    "Rule",
    "Statistics",
    "load_credentials",
    "opened",
    "source_api",
]
