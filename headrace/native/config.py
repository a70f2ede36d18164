"""The stack as it is written down: what it consists of, where it listens, and its secrets (stack.json)."""

import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from headrace.native.layout import StateDir, write_private
from headrace.native.process import User
from headrace.native.state_file import ProcessIdentity, identity_from

Store = Literal["minio", "local"]
Brokers = Literal[1, 3]

BUCKET = "headrace"
DATABASE = "headrace"
STORE_REGION = "us-east-1"
GATEWAY = "gateway"
GATEWAY_HTTP = "gateway-http"  # where callers come; its health has a port like every process's


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One process of the service: the arguments after `headrace`."""

    name: str
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Secrets:
    """Made at random for each stack."""

    postgres_password: str = field(repr=False)
    valkey_password: str = field(repr=False)
    store_access_key: str = field(repr=False)
    store_secret_key: str = field(repr=False)
    gateway_token_secret: str = field(repr=False)
    gateway_admin_key: str = field(repr=False)

    @classmethod
    def new(cls) -> "Secrets":
        """Make fresh ones."""
        hexadecimal = [secrets.token_hex(size) for size in (16, 16, 10, 20, 32)]
        return cls(*hexadecimal, *[f"hr_admin_{secrets.token_urlsafe(32)}"])


@dataclass(frozen=True, slots=True)
class ServerTools:
    """The programs and places that the parts found for themselves when they were prepared."""

    java: Path
    postgres_bin: Path
    postgres_home: Path
    postgres_user: User | None
    valkey: Path
    minio: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """The content of stack.json; everything a supervisor needs to know."""

    stack_id: str
    cluster_id: str
    store: Store
    brokers: Brokers
    services: tuple[ServiceSpec, ...]
    ports: Mapping[str, int]
    secrets: Secrets
    owner: ProcessIdentity | None = None
    tools: ServerTools | None = None

    @property
    def installed(self) -> ServerTools:
        """The prepared tools; a supervisor is only ever started after `up` has prepared them."""
        assert self.tools is not None
        return self.tools


def new_ids() -> tuple[str, str]:
    """A stack id, and a cluster id in the form that Kafka wants (22 characters, no leading dash)."""
    cluster = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    return secrets.token_hex(8), "H" + cluster[1:]


def broker_name(node: int) -> str:
    """The name of a broker's process."""
    return f"kafka-{node}"


def port_names(store: Store, brokers: Brokers, services: tuple[ServiceSpec, ...]) -> list[str]:
    """Every address that the stack listens on."""
    names = [name for node in range(1, brokers + 1) for name in (broker_name(node), f"{broker_name(node)}-controller")]
    names += ["postgres", "valkey"]
    names += ["minio"] if store == "minio" else []
    names += [service.name for service in services]
    return names + ([GATEWAY_HTTP] if GATEWAY in {service.name for service in services} else [])


def read_config(state: StateDir) -> StackConfig | None:
    """The stack that was last started here; None when there is none or its file is of no use."""
    try:
        return _config_from(json.loads(state.config.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_config(state: StateDir, config: StackConfig) -> None:
    """Write it down in one step, readable by its owner only."""
    write_private(state.config, json.dumps(asdict(config), indent=1, default=str).encode())


def _config_from(content: Mapping[str, Any]) -> StackConfig:
    own = {
        "services": tuple(ServiceSpec(one["name"], tuple(one["args"])) for one in content["services"]),
        "secrets": Secrets(**content["secrets"]),
        "owner": identity_from(content["owner"]),
        "tools": _tools_from(content["tools"]) if content["tools"] else None,
    }
    return StackConfig(**{**content, **own})


def _tools_from(content: Mapping[str, Any]) -> ServerTools:
    user = content["postgres_user"]
    return ServerTools(
        java=Path(content["java"]),
        postgres_bin=Path(content["postgres_bin"]),
        postgres_home=Path(content["postgres_home"]),
        postgres_user=User(user["uid"], user["gid"]) if user else None,
        valkey=Path(content["valkey"]),
        minio=Path(content["minio"]) if content["minio"] else None,
    )
