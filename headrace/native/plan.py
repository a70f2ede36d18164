"""Which processes a stack consists of."""

from headrace.native import kafka, minio, postgres, service, valkey
from headrace.native.config import StackConfig
from headrace.native.layout import StateDir
from headrace.native.process import Process


def plan(config: StackConfig, state: StateDir) -> tuple[Process, ...]:
    """Every process of the stack, the servers first."""
    servers = [kafka.broker(config, state, node) for node in range(1, config.brokers + 1)]
    servers += [postgres.server(config, state), valkey.server(config, state)]
    if config.store == "minio":
        servers.append(minio.server(config, state))
    names = tuple(server.name for server in servers)
    return (*servers, *service.processes(config, state, names))
