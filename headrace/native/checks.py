"""How one sees that a server serves: each asks the real protocol, because an open port comes earlier than service."""

import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from headrace.native.ports import LOOPBACK
from headrace.native.process import ReadyCheck

_ANSWER_S_MAX = 1.0


def http_answers(port: int, path: str) -> ReadyCheck:
    """Ready once GET answers 200."""
    url = f"http://{LOOPBACK}:{port}{path}"

    def check() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=_ANSWER_S_MAX) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False

    return check


def valkey_answers(port: int) -> ReadyCheck:
    """Ready once PING is answered, be it with a request for the password."""

    def check() -> bool:
        with socket.create_connection((LOOPBACK, port), timeout=_ANSWER_S_MAX) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))

    return check


def postgres_accepts(pg_isready: Path, port: int) -> ReadyCheck:
    """Ready once PostgreSQL's own pg_isready says that it accepts connections."""
    argv = [str(pg_isready), "-q", "-h", LOOPBACK, "-p", str(port), "-t", "1"]

    def check() -> bool:
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode == 0

    return check


def kafka_serves(port: int, brokers: int) -> ReadyCheck:
    """Ready once this broker answers for the metadata and knows of all brokers."""
    client: Any = None

    def check() -> bool:
        nonlocal client
        # The plain connection comes first: librdkafka would back off after refusals, and be late by that.
        socket.create_connection((LOOPBACK, port), timeout=_ANSWER_S_MAX).close()
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        if client is None:
            client = AdminClient(
                {"bootstrap.servers": f"{LOOPBACK}:{port}", "log_level": 0, "reconnect.backoff.max.ms": 200}
            )
        try:
            known = len(client.list_topics(timeout=_ANSWER_S_MAX).brokers)
        except KafkaException:
            return False
        if known < brokers:
            return False
        client = None
        return True

    return check
