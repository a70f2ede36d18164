"""A process warns of what crosses a network in plain text, and of nothing that stays on this machine."""

import pytest
from structlog.testing import capture_logs

from headrace.runtime.plain_text import plain_text, warn_of_plain_text
from headrace.runtime.settings import Settings, load_settings

SAFE = {
    "kafka_bootstrap": "kafka.example:9093",
    "kafka_security": "SASL_SSL",
    "postgres_dsn": "postgresql://worker@db.example/headrace?sslmode=verify-full",
    "store_endpoint": "https://minio.example:9000",
    "redis_url": "rediss://cache.example/0",
}


def settings_with(**changes: str) -> Settings:
    return load_settings(_env_file=None, **{**SAFE, **changes})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("kafka_security", "PLAINTEXT"),
        ("kafka_security", "SASL_PLAINTEXT"),
        ("postgres_dsn", "postgresql://worker:secret@db.example/headrace"),
        ("postgres_dsn", "postgresql://worker:secret@10.0.0.7:5432/headrace?sslmode=prefer"),
        ("postgres_dsn", "postgresql:///headrace?host=db.example&sslmode=disable"),
        ("postgres_dsn", "postgresql://127.0.0.1:5432,db.example:5432/headrace"),
        ("store_endpoint", "http://minio.example:9000"),
        ("kafka_oauth_token_url", "http://issuer.example/token"),
        ("redis_url", "redis://:secret@cache.example/0"),
        ("gateway_host", "0.0.0.0"),
        ("gateway_clamd", "scanner.example:3310"),
    ],
)
def test_what_crosses_a_network_in_plain_text_is_warned_of_by_its_setting(setting: str, value: str) -> None:
    with capture_logs() as logs:
        warn_of_plain_text(settings_with(**{setting: value}), serves=True)
    assert [line["setting"] for line in logs] == [f"HEADRACE_{setting.upper()}"]
    assert "secret" not in str(logs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kafka_bootstrap": "127.0.0.1:9092,[::1]:9092,localhost:9092", "kafka_security": "PLAINTEXT"},
        {"postgres_dsn": "postgresql://127.0.0.1:5432/headrace"},
        {"postgres_dsn": "postgresql:///headrace?host=/run/postgresql"},
        {"postgres_dsn": "postgresql://db.example/headrace?sslmode=require"},
        {"store_endpoint": "http://127.0.0.1:9000", "redis_url": "redis://localhost:6379"},
        {"store_endpoint": "", "redis_url": ""},
        {"kafka_oauth_token_url": "https://issuer.example/token"},
        {"postgres_dsn": "postgresql://db.example/headrace?sslmode=verify-full", "postgres_password": "secret"},
        {"gateway_host": "10.0.0.7", "gateway_proxies": "10.0.0.1"},
        {"gateway_clamd": "/run/clamd.sock"},
        {"gateway_clamd": "127.0.0.1:3310"},
    ],
)
def test_what_is_encrypted_or_stays_on_this_machine_is_not_warned_of(changes: dict[str, str]) -> None:
    assert plain_text(settings_with(**changes), serves=True) == []


def test_only_a_gateway_is_asked_what_it_serves() -> None:
    assert plain_text(settings_with(gateway_host="0.0.0.0")) == []
