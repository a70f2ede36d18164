"""The configuration of a stack (stack.json): what it consists of, its ports on the loopback address, its secrets."""

import json
import secrets
import socket
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from headrace.native.layout import StateDir, write_private
from headrace.native.process import PosixAccount

Store = Literal["minio", "local"]
Brokers = Literal[1, 3]

BUCKET = "headrace"
DATABASE = "headrace"
STORE_REGION = "us-east-1"
GATEWAY = "gateway"
GATEWAY_HTTP = "gateway-http"
"""The port of the HTTP API; the gateway's health has a port like that of every process."""

LOOPBACK = "127.0.0.1"
_PORT_MIN, _PORT_MAX = 18_000, 32_000
"""Below the range that systems give to outgoing connections (32768 and up on Linux, 49152 on macOS), so no client
connection can occupy a server's port while that server restarts."""
_TRIES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One process of the service: the arguments after `headrace`."""

    name: str
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """A further site of the stack: a Kafka of its own, whose topics are mirrored into that of the stack."""

    name: str
    cluster_id: str


@dataclass(frozen=True, slots=True)
class Secrets:
    """Random secrets of one stack."""

    postgres_password: str = field(repr=False)
    valkey_password: str = field(repr=False)
    store_access_key: str = field(repr=False)
    store_secret_key: str = field(repr=False)
    gateway_token_secret: str = field(repr=False)
    gateway_admin_key: str = field(repr=False)
    # Earlier versions wrote none of these.
    gateway_seal_secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    gateway_receipt_secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    @classmethod
    def new(cls) -> "Secrets":
        """Generate new secrets."""
        return cls(
            postgres_password=secrets.token_hex(16),
            valkey_password=secrets.token_hex(16),
            store_access_key=secrets.token_hex(10),
            store_secret_key=secrets.token_hex(20),
            gateway_token_secret=secrets.token_hex(32),
            gateway_admin_key=f"hr_admin_{secrets.token_urlsafe(32)}",
        )


@dataclass(frozen=True, slots=True)
class ServerTools:
    """The programs and directories that `prepare` found or installed."""

    java: Path
    postgres_bin: Path
    postgres_home: Path
    postgres_user: PosixAccount | None
    valkey: Path
    minio: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """The content of stack.json: everything that a supervisor needs to know."""

    stack_id: str
    cluster_id: str
    store: Store
    brokers: Brokers
    services: tuple[ServiceSpec, ...]
    ports: Mapping[str, int]
    secrets: Secrets
    tools: ServerTools | None = None
    sites: tuple[SiteSpec, ...] = ()
    centre: str = ""
    """The name of the site that they are mirrored to."""

    @property
    def installed(self) -> ServerTools:
        """The prepared tools; a supervisor only starts after `up` has prepared them."""
        assert self.tools is not None
        return self.tools


def new_ids() -> tuple[str, str]:
    """Return a stack id, and a cluster id in Kafka's form (22 characters, no leading dash)."""
    cluster = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    return secrets.token_hex(8), "H" + cluster[1:]


def broker_name(node: int) -> str:
    """Return the name of a broker's process."""
    return f"kafka-{node}"


def port_names(store: Store, brokers: Brokers, services: tuple[ServiceSpec, ...]) -> list[str]:
    """Return the name of every port that the stack listens on."""
    names = [name for node in range(1, brokers + 1) for name in (broker_name(node), f"{broker_name(node)}-controller")]
    names += ["postgres", "valkey"]
    names += ["minio"] if store == "minio" else []
    names += [service.name for service in services]
    return names + ([GATEWAY_HTTP] if GATEWAY in {service.name for service in services} else [])


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port now; lingering connections of an earlier server do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def assign_ports(names: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """Give each name a port of its own: its known one where that is still free.

    Raises OSError when the machine has no free port left.
    """
    ports: dict[str, int] = {}
    for name in names:
        port = known.get(name)
        reusable = port and port not in ports.values() and is_free(port)
        ports[name] = port if port and reusable else _free_port(set(ports.values()))
    return ports


def _free_port(taken: set[int]) -> int:
    for _ in range(_TRIES_MAX):
        port = _PORT_MIN + secrets.randbelow(_PORT_MAX - _PORT_MIN)
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port between {_PORT_MIN} and {_PORT_MAX}")


def read_config(state: StateDir) -> StackConfig | None:
    """Return the configuration of the stack that was last started here; None if it is missing or cannot be read."""
    try:
        return _config_from(json.loads(state.config.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_config(state: StateDir, config: StackConfig) -> None:
    """Replace stack.json in one step, readable by its owner only."""
    write_private(state.config, json.dumps(asdict(config), indent=1, default=str).encode())


def _config_from(content: Mapping[str, Any]) -> StackConfig:
    names = {field.name for field in fields(StackConfig)}  # earlier versions wrote more
    converted = {
        "services": tuple(ServiceSpec(spec["name"], tuple(spec["args"])) for spec in content["services"]),
        "secrets": Secrets(**content["secrets"]),
        "tools": _tools_from(content["tools"]) if content["tools"] else None,
        "sites": tuple(SiteSpec(site["name"], site["cluster_id"]) for site in content.get("sites", ())),
    }
    return StackConfig(**{name: value for name, value in {**content, **converted}.items() if name in names})


def _tools_from(content: Mapping[str, Any]) -> ServerTools:
    user = content["postgres_user"]
    return ServerTools(
        java=Path(content["java"]),
        postgres_bin=Path(content["postgres_bin"]),
        postgres_home=Path(content["postgres_home"]),
        postgres_user=PosixAccount(user["uid"], user["gid"]) if user else None,
        valkey=Path(content["valkey"]),
        minio=Path(content["minio"]) if content["minio"] else None,
    )
