"""The servers of a development machine: real Kafka, PostgreSQL, Valkey and MinIO, and the service itself."""

from headrace.native.config import Brokers, ServiceSpec, Store
from headrace.native.info import ProcessStatus, StackInfo, StackStatus
from headrace.native.service import SERVICES
from headrace.native.stack import StackOptions, down, kill, restart_count, status, temporary_stack, up

__all__ = [
    "SERVICES",
    "Brokers",
    "ProcessStatus",
    "ServiceSpec",
    "StackInfo",
    "StackOptions",
    "StackStatus",
    "Store",
    "down",
    "kill",
    "restart_count",
    "status",
    "temporary_stack",
    "up",
]
