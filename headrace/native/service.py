"""The service's own processes, configured through their environment as in a deployment."""

import sys
from pathlib import Path

from headrace.native import kafka, minio, postgres, valkey
from headrace.native.checks import http_answers
from headrace.native.config import BUCKET, GATEWAY, GATEWAY_HTTP, LOOPBACK, STORE_REGION, ServiceSpec, StackConfig
from headrace.native.layout import StateDir
from headrace.native.process import ProcessSpec, RestartPolicy

SERVICES = (
    ServiceSpec("worker-events", ("worker", "--kinds", "cids,ldos")),
    ServiceSpec("worker-media", ("worker", "--kinds", "frames,clips")),
    ServiceSpec("relay", ("relay",)),
    ServiceSpec("preprocessing", ("consumer", "preprocessing")),
    ServiceSpec("perception", ("consumer", "perception")),
    ServiceSpec("capture", ("capture",)),
    ServiceSpec(GATEWAY, (GATEWAY,)),
    ServiceSpec("maintenance", ("maintenance",)),
)
INIT = "init"
"""The step that runs before them: migrations, topics, bucket."""

_STOP_S_MAX = 20.0
"""A process drains for at most 18 s before it ends by itself."""


def client_env(config: StackConfig, state: StateDir) -> dict[str, str]:
    """Return the HEADRACE_* variables that connect a client or a process to this stack; they contain its secrets."""
    env = {
        "HEADRACE_KAFKA_BOOTSTRAP": kafka.bootstrap(config),
        "HEADRACE_KAFKA_REPLICAS": str(config.brokers),
        "HEADRACE_POSTGRES_DSN": postgres.dsn(config, with_password=True),
        "HEADRACE_STORE_URL": store_url(config, state),
        "HEADRACE_ARCHIVE_URL": archive_url(config, state),
        "HEADRACE_STATE_DIR": str(state.root),
    }
    if config.store == "minio":
        env |= {
            "HEADRACE_STORE_ENDPOINT": minio.endpoint(config),
            "HEADRACE_STORE_REGION": STORE_REGION,
            "HEADRACE_STORE_ACCESS_KEY": config.secrets.store_access_key,
            "HEADRACE_STORE_SECRET_KEY": config.secrets.store_secret_key,
        }
    return env


def store_url(config: StackConfig, state: StateDir) -> str:
    """Return the URL of the object store."""
    return f"s3://{BUCKET}" if config.store == "minio" else state.blobs.as_uri()


def archive_url(config: StackConfig, state: StateDir) -> str:
    """Return the URL of the archive of old bodies."""
    return f"s3://{BUCKET}-archive" if config.store == "minio" else state.archive.as_uri()


def gateway_url(config: StackConfig) -> str | None:
    """Return the URL of the gateway; None if the stack has none."""
    port = config.ports.get(GATEWAY_HTTP)
    return None if port is None else f"http://{LOOPBACK}:{port}"


def _own_env(config: StackConfig, name: str) -> dict[str, str]:
    """Return the secrets and addresses that this process alone needs."""
    match name:
        case "init":
            return {"HEADRACE_GATEWAY_ADMIN_KEY": config.secrets.gateway_admin_key}
        case "capture":
            return {"HEADRACE_GATEWAY_SEAL_SECRET": config.secrets.gateway_seal_secret}
        case "gateway":
            return {
                "HEADRACE_GATEWAY_HOST": LOOPBACK,
                "HEADRACE_GATEWAY_PORT": str(config.ports.get(GATEWAY_HTTP, 0)),
                "HEADRACE_GATEWAY_TOKEN_SECRET": config.secrets.gateway_token_secret,
                "HEADRACE_GATEWAY_SEAL_SECRET": config.secrets.gateway_seal_secret,
                "HEADRACE_GATEWAY_RECEIPT_SECRET": config.secrets.gateway_receipt_secret,
                "HEADRACE_REDIS_URL": valkey.url(config),
            }
        case _:
            return {}


def processes(config: StackConfig, state: StateDir, servers: tuple[str, ...]) -> tuple[ProcessSpec, ...]:
    """Return the step that prepares topics and tables, and the processes of the service, which depend on it."""
    if not config.services:
        return ()
    env = {**client_env(config, state), "HEADRACE_LOG_FORMAT": "json"}
    init = ProcessSpec(
        name=INIT,
        argv=_argv((INIT,)),
        env={**env, **_own_env(config, INIT)},
        cwd=Path.cwd(),
        log=state.log(INIT),
        depends_on=servers,
        restart=RestartPolicy.ON_FAILURE,
    )
    return (init, *(_process(service, config, state, env) for service in config.services))


def _process(service: ServiceSpec, config: StackConfig, state: StateDir, env: dict[str, str]) -> ProcessSpec:
    port = config.ports[service.name]
    return ProcessSpec(
        name=service.name,
        argv=_argv(service.args),
        env={**env, **_own_env(config, service.name), "HEADRACE_HEALTH_PORT": str(port)},
        # A `.env` with tuning may be in the directory where the stack was started.
        cwd=Path.cwd(),
        log=state.log(service.name),
        address=gateway_url(config) if service.name == GATEWAY else f"http://{LOOPBACK}:{port}/readyz",
        ready=http_answers(port, "/readyz"),
        depends_on=(INIT,),
        stop_s_max=_STOP_S_MAX,
    )


def _argv(args: tuple[str, ...]) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "headrace", *args)
