"""The servers of a development machine: real Kafka, PostgreSQL, Valkey and MinIO, and the service itself."""

from infra.native.config import Brokers, ServiceSpec, Store
from infra.native.info import ProcessStatus, StackInfo, StackStatus
from infra.native.service import SERVICES
from infra.native.stack import StackOptions, down, kill, restart_count, status, up
from infra.native.temporary import temporary_stack

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
