"""Which of a process's connections cross a network in plain text, for a warning at its start."""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from headrace.runtime.logs import Action, get_log
from headrace.runtime.setting_names import variable
from headrace.runtime.settings import Settings

# `allow` and `prefer` take plain text where the server does not offer TLS, or whoever is in between says so.
_ENCRYPTED_MODES = {"require", "verify-ca", "verify-full"}


def warn_of_plain_text(settings: Settings, *, serves: bool = False) -> None:
    """Log a warning for each setting by which something crosses a network in plain text; `serves` is for a gateway."""
    for setting, what in plain_text(settings, serves=serves):
        get_log().warning(Action.PLAIN_TEXT, setting=variable(setting), why=what)


def plain_text(settings: Settings, *, serves: bool = False) -> list[tuple[str, str]]:
    """Return the settings by which something crosses a network in plain text, each with what that is.

    Addresses of this machine, and sockets in its file system, cross no network.
    """
    crossing = []
    brokers = [part.strip().rpartition(":")[0] for part in settings.kafka_bootstrap.split(",")]
    if settings.kafka_security in {"PLAINTEXT", "SASL_PLAINTEXT"} and not _are_here(brokers):
        crossing.append(("kafka_security", f"Kafka is reached with {settings.kafka_security}"))
    postgres = urlsplit(settings.postgres_dsn.get_secret_value())
    options = parse_qs(postgres.query)
    mode = options.get("sslmode", ["prefer"])[-1]
    named = postgres.netloc.rpartition("@")[2].split(",")
    hosts = [*(urlsplit(f"//{name}").hostname or "" for name in named), *options.get("host", [])]
    if mode not in _ENCRYPTED_MODES and not _are_here(hosts):
        crossing.append(("postgres_dsn", f"PostgreSQL is reached with sslmode={mode}; use verify-full"))
    for setting, url, scheme in (
        ("store_endpoint", settings.store_endpoint, "http"),
        ("redis_url", settings.redis_url.get_secret_value(), "redis"),
        ("kafka_oauth_token_url", settings.kafka_oauth_token_url, "http"),
    ):
        parts = urlsplit(url)
        if parts.scheme == scheme and not _are_here([parts.hostname or ""]):
            crossing.append((setting, f"it is an address of {scheme}://"))
    if serves:
        crossing += _of_gateway(settings)
    return crossing


def _of_gateway(settings: Settings) -> list[tuple[str, str]]:
    crossing = []
    if not _are_here([settings.gateway_host]) and not settings.gateway_proxies:
        crossing.append(("gateway_host", "clients send keys and data in plain text; put a proxy with TLS in front"))
    clamd = settings.gateway_clamd
    if clamd and "/" not in clamd and not _are_here([clamd.rpartition(":")[0]]):
        crossing.append(("gateway_clamd", "clamd is sent all uploads in plain text"))
    return crossing


def _are_here(hosts: Iterable[str]) -> bool:
    """Return whether hosts are this machine, or directories with sockets; an empty one is a default of this machine."""
    return all(not host or host.startswith("/") or _is_loopback(host.strip("[]")) for host in hosts)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
