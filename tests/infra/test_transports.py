"""Every connection over TLS with a CA of one's own, on real servers: what is right passes, what is wrong is told."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from headrace.initialize import initialize
from headrace.producers.publisher import Publisher
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import reach_kafka
from headrace.runtime.plain_text import plain_text
from headrace.runtime.settings import Settings
from headrace.schemas.digest import derived_prefix, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.bucket import ensure_bucket
from headrace.store.blobs.store_url import StoreAccess
from headrace.store.migrate import migrate
from headrace.store.postgres import connected
from tests.batch.batch_samples import frame
from tests.certificates import Authority
from tests.gateway.gateway_world import Gateway, picture
from tests.infra.tls_servers import CLIENT_SECRET, KEY_PASSWORD, SCOPE, TlsServers, postgres_with_tls, tls_servers
from tests.processes import ServiceProcess
from tests.waiting import until

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(postgres_with_tls() is None, reason="needs a PostgreSQL with TLS: Debian's package postgresql"),
]


@pytest.fixture(scope="module")
def servers() -> Iterator[TlsServers]:
    with tls_servers() as running:
        yield running


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA that the servers do not know, and who knows it does not know theirs."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def dsn_of(settings: Settings, *, host: str = "", options: str = "") -> str:
    dsn = settings.postgres_dsn.get_secret_value()
    place = dsn.replace("@127.0.0.1:", f"@{host}:") if host else dsn
    return f"{place.partition('?')[0]}?{options}" if options else place


async def asked(dsn: str) -> int:
    async with connected(dsn, statement_s_max=5.0, application="test") as connection:
        return int(await connection.fetchval("select 1"))


def test_a_frame_passes_over_tls_with_certificate_and_token_alike(servers: TlsServers, tmp_path: Path) -> None:
    settings = servers.settings
    assert plain_text(settings) == []
    initialize(settings)
    body = picture(form=".png")
    event = frame("", body=body, sha256=sha256_hex(body), size_bytes=len(body), width=64, height=48)
    record = record_id(Kind.FRAME, event.sha256)
    with ExitStack() as stack:
        for args in (
            ("worker", "--kinds", "frames,clips"),
            ("relay",),
            ("consumer", "preprocessing"),
        ):
            process = ServiceProcess(settings, *args, log=tmp_path / args[-1])
            stack.callback(process.stop)
            process.wait_ready()
        with closing(Publisher.from_settings(settings)) as publisher:
            publisher.publish(event).result(30)
        blobs = Blobs.from_settings(settings)
        until(lambda: asyncio.run(keys_below(blobs, derived_prefix(record))), 90, "the thumbnail of the frame")
        answering = stack.enter_context(Gateway(settings, tmp_path / "gateway"))
        with answering.client("operator") as client:
            listed = client.get("/api/v1/records").json()["records"]
            assert str(record) in {item["record_id"] for item in listed}
            ready = client.get("/ready").json()
            assert ready["needs"] == dict.fromkeys(ready["needs"], "ok")
            assert "redis" in ready["needs"]
    assert set(servers.tokens.asked) == {SCOPE}
    assert '"redis"' not in (tmp_path / "gateway").read_text(), "rate limits and cached lists are shared"
    for log in tmp_path.iterdir():
        text = log.read_text()
        assert not [secret for secret in (CLIENT_SECRET, KEY_PASSWORD) if secret in text]


async def keys_below(blobs: Blobs, prefix: str) -> list[str]:
    return [stat.key async for stat in blobs.list(prefix)]


def test_kafka_takes_a_certificate_without_a_token_and_a_worker_reads_with_it(
    servers: TlsServers, tmp_path: Path
) -> None:
    settings = servers.with_certificate_alone()
    initialize(settings)
    process = ServiceProcess(settings, "worker", log=tmp_path / "worker")
    try:
        process.wait_ready()
    finally:
        process.stop()


WRONG_KAFKA: list[Any] = [
    pytest.param({"kafka_ca_file": "STRANGER"}, "HEADRACE_KAFKA_CA_FILE", id="it is of another CA"),
    pytest.param({"kafka_bootstrap": "localhost:PORT"}, "HEADRACE_KAFKA_CA_FILE", id="it names another host"),
    pytest.param({"kafka_cert_file": "", "kafka_key_file": ""}, "HEADRACE_KAFKA_CERT_FILE", id="no certificate"),
    pytest.param(
        {"kafka_cert_file": "STRANGER_CERT", "kafka_key_file": "STRANGER_KEY", "kafka_key_password": ""},
        "HEADRACE_KAFKA_CERT_FILE",
        id="ours is of another CA",
    ),
    pytest.param({"kafka_key_password": "wrong"}, "HEADRACE_KAFKA_KEY_PASSWORD", id="the key's password is wrong"),
    pytest.param({"kafka_ca_file": "EMPTY"}, "HEADRACE_KAFKA_CA_FILE", id="the CA's file holds none"),
]


@pytest.mark.parametrize(("changes", "setting"), WRONG_KAFKA)
def test_kafka_with_a_wrong_certificate_is_told_with_the_setting(
    servers: TlsServers, stranger: Authority, tmp_path: Path, changes: dict[str, str], setting: str
) -> None:
    (tmp_path / "empty.pem").write_text("")
    certificate, key = stranger.issue("stranger-client")
    values = {
        "STRANGER": stranger.file,
        "STRANGER_CERT": certificate,
        "STRANGER_KEY": key,
        "EMPTY": tmp_path / "empty.pem",
        "localhost:PORT": servers.mtls_bootstrap.replace("127.0.0.1", "localhost"),
    }
    wrong = {name: str(values.get(value, value)) for name, value in changes.items()}
    told(lambda: reach_kafka(servers.with_certificate_alone(**wrong)), "kafka_refused", setting)


def test_a_device_that_is_refused_is_told_with_the_setting(servers: TlsServers, stranger: Authority) -> None:
    settings = servers.with_certificate_alone(kafka_ca_file=str(stranger.file))
    told(lambda: Publisher.from_settings(settings), "kafka_refused", "HEADRACE_KAFKA_CA_FILE")


@pytest.mark.parametrize(
    "changes",
    [
        {"kafka_oauth_client_secret": "wrong"},
        {"kafka_oauth_token_url": "http://127.0.0.1:1/token"},
        {"kafka_sasl_mechanism": "SCRAM-SHA-512", "kafka_username": "me", "kafka_password": "wrong"},
    ],
    ids=["wrong secret", "no endpoint", "another mechanism"],
)
def test_a_token_that_is_not_had_is_told_with_the_settings(servers: TlsServers, changes: dict[str, str]) -> None:
    error = told(lambda: reach_kafka(servers.changed(**changes)), "kafka_refused", "HEADRACE_KAFKA_OAUTH")
    assert "HEADRACE_KAFKA_SASL_MECHANISM" in error.hint


def test_a_token_of_another_issuer_is_refused(servers: TlsServers) -> None:
    from tests.infra.token_endpoint import serving

    with serving("headrace-client", CLIENT_SECRET) as other:
        settings = servers.changed(kafka_oauth_token_url=other.url)
        told(lambda: reach_kafka(settings), "kafka_refused", "HEADRACE_KAFKA_OAUTH")


@pytest.mark.parametrize("connect", [lambda dsn: asyncio.run(asked(dsn)), migrate], ids=["asyncpg", "psycopg"])
@pytest.mark.parametrize(
    ("host", "options", "told_of"),
    [
        ("", "sslmode=verify-full&sslrootcert=STRANGER", "sslrootcert"),
        ("localhost", "sslmode=verify-full&sslrootcert=CA", "sslmode"),
        ("", "sslmode=verify-full&sslrootcert=/nowhere.pem", "sslrootcert"),
        ("", "sslmode=verify-full&sslrootcert=EMPTY", "sslrootcert"),
        ("", "sslmode=verify-full", "needs sslrootcert"),
    ],
    ids=["another CA", "another host", "no file", "not a certificate", "no CA"],
)
def test_postgresql_with_a_wrong_certificate_is_told_with_the_setting(
    servers: TlsServers, stranger: Authority, tmp_path: Path, connect: Any, host: str, options: str, told_of: str
) -> None:
    (tmp_path / "empty.pem").write_text("")
    files = {"STRANGER": stranger.file, "EMPTY": tmp_path / "empty.pem", "CA": servers.authority.file}
    for name, file in files.items():
        options = options.replace(f"sslrootcert={name}", f"sslrootcert={file}")
    dsn = dsn_of(servers.settings, host=host, options=options)
    error = told(lambda: connect(dsn), "postgres_refused", "HEADRACE_POSTGRES_DSN")
    assert told_of in error.what
    assert dsn.split(":")[2].partition("@")[0] not in str(error)


def test_postgresql_verifies_the_host_only_with_verify_full(servers: TlsServers) -> None:
    options = f"sslmode=verify-ca&sslrootcert={servers.authority.file}"
    assert asyncio.run(asked(dsn_of(servers.settings, host="localhost", options=options))) == 1


def test_a_postgresql_without_tls_is_told(module_plain_dsn: str) -> None:
    for connect in (lambda dsn: asyncio.run(asked(dsn)), migrate):
        error = told(lambda: connect(f"{module_plain_dsn}?sslmode=require"), "postgres_refused", "sslmode")  # noqa: B023
        assert "offers no TLS" in error.what


@pytest.fixture(scope="module")
def module_plain_dsn(stack_settings: Settings) -> str:
    return stack_settings.postgres_dsn.get_secret_value()


@pytest.mark.parametrize("wrong", ["another CA", "another host"])
def test_a_store_with_a_wrong_certificate_is_told_with_the_setting(
    servers: TlsServers, stranger: Authority, wrong: str
) -> None:
    endpoint = servers.settings.store_endpoint
    settings = (
        servers.changed(store_ca_file=str(stranger.file))
        if wrong == "another CA"
        else servers.changed(store_endpoint=endpoint.replace("127.0.0.1", "localhost"))
    )
    blobs = Blobs.from_settings(settings)
    for work in (
        lambda: asyncio.run(blobs.check()),
        lambda: asyncio.run(blobs.get("blobs/x")),
        lambda: asyncio.run(ensure_bucket(settings.store_url, StoreAccess.of(settings), staging_days=8.0)),
    ):
        told(work, "store_refused", "HEADRACE_STORE_CA_FILE")


@pytest.mark.parametrize("wrong", ["another CA", "another host"])
def test_a_gateway_works_without_a_redis_that_it_does_not_trust(
    servers: TlsServers, stranger: Authority, tmp_path: Path, wrong: str
) -> None:
    initialize(servers.settings)
    url = servers.settings.redis_url.get_secret_value()
    changed = (
        url.replace(str(servers.authority.file), str(stranger.file))
        if wrong == "another CA"
        else url.replace("127.0.0.1", "localhost")
    )
    with Gateway(servers.changed(redis_url=changed), tmp_path / "gateway") as gateway:
        until(lambda: "degraded" in gateway.process.get("/readyz")[1], 30, "Redis to be missed")
        status, told_of = gateway.process.get("/readyz")
        assert status == 200
        assert "its certificate is not valid for ssl_ca_certs in HEADRACE_REDIS_URL" in told_of


def told(work: Any, code: str, setting: str) -> HeadraceError:
    """The error of what must fail: one sentence, one hint, and no secret."""
    with pytest.raises(HeadraceError) as caught:
        work()
    error = caught.value
    assert (error.code, error.exit_code) == (code, Exit.FAILED), str(error)
    assert setting in f"{error.what} {error.hint}"
    assert "\n" not in error.what
    assert not [secret for secret in (CLIENT_SECRET, KEY_PASSWORD) if secret in str(error)]
    return error
