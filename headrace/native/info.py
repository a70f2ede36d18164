"""What `headrace up` and `headrace status` report about a stack."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.native import kafka, minio, postgres, service, sites, valkey
from headrace.native.config import StackConfig, Store
from headrace.native.layout import StateDir
from headrace.native.state_file import ProcessState

HEALTHY = frozenset({ProcessState.READY, ProcessState.DEGRADED, ProcessState.DONE})


@dataclass(frozen=True, slots=True)
class StackInfo:
    """The addresses of a stack, with its secrets; only `public()` may be shown."""

    state_dir: Path
    store: Store
    brokers: int
    kafka: str
    postgres_dsn: str = field(repr=False)
    valkey_url: str = field(repr=False)
    store_url: str
    store_endpoint: str | None
    store_access_key: str = field(repr=False)
    store_secret_key: str = field(repr=False)
    java: Path
    gateway_url: str | None
    admin_key: str | None = field(repr=False)
    sites: Mapping[str, str]
    """The addresses of the Kafka of each further site."""
    _env: Mapping[str, str] = field(repr=False)
    _postgres_shown: str = field(repr=False)

    @classmethod
    def of(cls, config: StackConfig, state: StateDir) -> "StackInfo":
        """Build it from the configuration."""
        has_minio = config.store == "minio"
        return cls(
            state_dir=state.root,
            store=config.store,
            brokers=config.brokers,
            kafka=kafka.bootstrap(config),
            postgres_dsn=postgres.dsn(config, with_password=True),
            valkey_url=valkey.url(config),
            store_url=service.store_url(config, state),
            store_endpoint=minio.endpoint(config) if has_minio else None,
            store_access_key=config.secrets.store_access_key if has_minio else "",
            store_secret_key=config.secrets.store_secret_key if has_minio else "",
            java=config.installed.java,
            gateway_url=service.gateway_url(config),
            admin_key=config.secrets.gateway_admin_key if service.gateway_url(config) else None,
            sites=sites.bootstraps(config),
            _env=service.client_env(config, state),
            _postgres_shown=postgres.dsn(config, with_password=False),
        )

    def env(self) -> dict[str, str]:
        """Return the HEADRACE_* variables for a client or a process; they contain the secrets."""
        return dict(self._env)

    def public(self) -> dict[str, object]:
        """Return what may be shown, as in `headrace up --json`."""
        return {
            "kafka": self.kafka,
            "postgres": self._postgres_shown,
            "store": self.store_url if self.store_endpoint is None else f"{self.store_url} at {self.store_endpoint}",
            "gateway_url": self.gateway_url,
            "admin_key": self.admin_key,
            "state_dir": str(self.state_dir),
            **({"sites": dict(self.sites)} if self.sites else {}),
            "logs": str(self.state_dir / "logs"),
        }


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of the stack, as `headrace status` lists it."""

    name: str
    state: ProcessState
    pid: int | None
    restarts: int
    address: str | None
    last_exit: str | None
    log: Path
    missing: Mapping[str, str] = field(default_factory=dict)
    """What the process lacks, with the fault of each; empty where nobody asked it."""


@dataclass(frozen=True, slots=True)
class StackStatus:
    """Whether a stack runs, and each of its processes; `info` is None where no stack was ever started."""

    state_dir: Path
    running: bool
    info: StackInfo | None
    processes: tuple[ProcessStatus, ...]

    @property
    def healthy(self) -> bool:
        """Whether every process is ready, or only lacks what is optional."""
        return self.running and all(process.state in HEALTHY for process in self.processes)

    def public(self) -> dict[str, object]:
        """Return what may be shown, as in `headrace status --json`."""
        addresses = self.info.public() if self.info else {"state_dir": str(self.state_dir)}
        addresses.pop("admin_key", None)  # a status is pasted into reports; `headrace up` prints the key
        processes = [
            {
                "name": process.name,
                "pid": process.pid,
                "state": process.state.value,
                "restarts": process.restarts,
                "address": process.address,
                "last_exit": process.last_exit,
                "missing": dict(process.missing),
                "log": str(process.log),
            }
            for process in self.processes
        ]
        return {**addresses, "running": self.running, "healthy": self.healthy, "processes": processes}
