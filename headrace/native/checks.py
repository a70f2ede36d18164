"""Readiness checks: each uses the server's real protocol, because a port opens before the server serves."""

import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from headrace.native.config import LOOPBACK
from headrace.native.process import ReadyCheck

_TIMEOUT_S = 1.0


def http_answers(port: int, path: str) -> ReadyCheck:
    """Ready once GET returns 200."""
    url = f"http://{LOOPBACK}:{port}{path}"

    def check() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
                return bool(response.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False

    return check


def valkey_answers(port: int) -> ReadyCheck:
    """Ready once Valkey answers PING, even if it asks for the password."""

    def check() -> bool:
        with socket.create_connection((LOOPBACK, port), timeout=_TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))

    return check


def postgres_accepts(pg_isready: Path, port: int) -> ReadyCheck:
    """Ready once pg_isready reports that PostgreSQL accepts connections."""
    argv = [str(pg_isready), "-q", "-h", LOOPBACK, "-p", str(port), "-t", "1"]

    def check() -> bool:
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode == 0

    return check


def kafka_serves(port: int, brokers: int) -> ReadyCheck:
    """Ready once this broker returns metadata that lists all brokers."""
    client: Any = None

    def check() -> bool:
        nonlocal client
        # Connect without librdkafka first: it backs off after refused connections and would notice the broker late.
        socket.create_connection((LOOPBACK, port), timeout=_TIMEOUT_S).close()
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        if client is None:
            client = AdminClient(
                {"bootstrap.servers": f"{LOOPBACK}:{port}", "log_level": 0, "reconnect.backoff.max.ms": 200}
            )
        try:
            known = len(client.list_topics(timeout=_TIMEOUT_S).brokers)
        except KafkaException:
            return False
        if known < brokers:
            return False
        client = None
        return True

    return check
