"""Kafka, PostgreSQL, MinIO and Valkey with TLS, their certificates signed by a test's own CA."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.native import kafka, minio, postgres, valkey
from headrace.native.checks import postgres_accepts
from headrace.native.config import DATABASE, LOOPBACK, STORE_REGION, Secrets, StackConfig, assign_ports, new_ids
from headrace.native.config import port_names as names_of_ports
from headrace.native.layout import StateDir
from headrace.native.prepare import prepare
from headrace.native.process import ProcessSpec
from headrace.runtime.settings import Settings, load_settings
from tests.certificates import Authority
from tests.infra.tls_proxy import tls_in_front_of
from tests.infra.token_endpoint import AUDIENCE, TokenEndpoint, serving
from tests.processes import ends_with_this_process
from tests.servers import in_memory_directory
from tests.waiting import until

READY_S_MAX = 60.0
MTLS, TOKENS = "mtls", "tokens"
CLIENT, CLIENT_SECRET, SCOPE = "headrace-client", "the-secret-of-the-client", "events"
KEY_PASSWORD = "password-of-the-key"
DEBIANS = Path("/usr/lib/postgresql")


def postgres_with_tls() -> Path | None:
    """The programs of a PostgreSQL with TLS, Debian's newest: the wheel's is built without."""
    folders = [path.parent for path in DEBIANS.glob("*/bin/initdb")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


@dataclass(frozen=True)
class TlsServers:
    """Running servers; `settings` reach them over TLS, Kafka with a certificate and a token."""

    settings: Settings
    mtls_bootstrap: str
    plain_bootstrap: str
    authority: Authority
    tokens: TokenEndpoint
    folder: Path

    def with_certificate_alone(self, **changes: object) -> Settings:
        """The settings for Kafka without a token."""
        return self.changed(**{"kafka_bootstrap": self.mtls_bootstrap, "kafka_security": "SSL", **changes})

    def changed(self, **changes: object) -> Settings:
        given = {name: getattr(self.settings, name) for name in self.settings.model_fields_set}
        return load_settings(_env_file=None, **given | changes)


@contextmanager
def tls_servers() -> Iterator[TlsServers]:
    """Run the servers while the context lasts."""
    folder = in_memory_directory()
    state = StateDir.at(folder / "state")
    state.create()
    authority = Authority(folder)
    server = authority.issue(LOOPBACK)
    client = authority.issue(CLIENT, password=KEY_PASSWORD)
    config = _config(state)
    programs = postgres_with_tls()
    assert programs is not None
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        tokens = stack.enter_context(serving(CLIENT, CLIENT_SECRET))
        _add_listeners(config, state, authority, server, tokens)
        _run(stack, _kafka(config, state, tokens))
        _run(stack, _postgres(stack, config, programs, server))
        _run(stack, _minio(config, state, server))
        _run(stack, valkey.server(config, state))
        redis = stack.enter_context(tls_in_front_of(config.ports["valkey"], server))
        secrets = config.secrets
        settings = load_settings(
            _env_file=None,
            kafka_bootstrap=f"{LOOPBACK}:{config.ports[TOKENS]}",
            kafka_security="SASL_SSL",
            kafka_sasl_mechanism="OAUTHBEARER",
            kafka_ca_file=str(authority.file),
            kafka_cert_file=str(client[0]),
            kafka_key_file=str(client[1]),
            kafka_key_password=KEY_PASSWORD,
            kafka_oauth_token_url=tokens.url,
            kafka_oauth_client_id=CLIENT,
            kafka_oauth_client_secret=CLIENT_SECRET,
            kafka_oauth_scope=SCOPE,
            postgres_dsn=f"postgresql://{postgres.ROLE}:{secrets.postgres_password}@{LOOPBACK}:{config.ports['postgres']}"
            f"/{DATABASE}?sslmode=verify-full&sslrootcert={authority.file}",
            store_url="s3://headrace",
            store_endpoint=f"https://{LOOPBACK}:{config.ports['minio']}",
            store_region=STORE_REGION,
            store_access_key=secrets.store_access_key,
            store_secret_key=secrets.store_secret_key,
            store_ca_file=str(authority.file),
            redis_url=f"rediss://:{secrets.valkey_password}@{LOOPBACK}:{redis}/0?ssl_ca_certs={authority.file}",
            start_wait_s_max=30.0,
        )
        plain = kafka.bootstrap(config)
        yield TlsServers(settings, f"{LOOPBACK}:{config.ports[MTLS]}", plain, authority, tokens, folder)


def _config(state: StateDir) -> StackConfig:
    stack_id, cluster_id = new_ids()
    ports = assign_ports([*names_of_ports("minio", 1, ()), MTLS, TOKENS], {})
    config = StackConfig(
        stack_id=stack_id,
        cluster_id=cluster_id,
        store="minio",
        brokers=1,
        services=(),
        ports=ports,
        secrets=Secrets.new(),
    )
    return prepare(config, state, lambda _: None)


def _add_listeners(
    config: StackConfig, state: StateDir, authority: Authority, server: tuple[Path, Path], tokens: TokenEndpoint
) -> None:
    """Add two listeners to the broker: one asks for a client's certificate, the other for a token as well."""
    properties = state.part("kafka") / "1" / "server.properties"
    settings = dict(line.split("=", 1) for line in properties.read_text().splitlines())
    keystore = authority.file.with_name("kafka.pem")
    keystore.write_bytes(server[1].read_bytes() + server[0].read_bytes())
    oauth, listener = "org.apache.kafka.common.security.oauthbearer", "listener.name.tokens"
    settings["listeners"] += f",MTLS://{LOOPBACK}:{config.ports[MTLS]},TOKENS://{LOOPBACK}:{config.ports[TOKENS]}"
    settings["listener.security.protocol.map"] += ",MTLS:SSL,TOKENS:SASL_SSL"
    settings |= {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
        "ssl.client.auth": "required",
        f"{listener}.ssl.client.auth": "required",
        f"{listener}.sasl.enabled.mechanisms": "OAUTHBEARER",
        f"{listener}.oauthbearer.sasl.jaas.config": f"{oauth}.OAuthBearerLoginModule required;",
        f"{listener}.oauthbearer.sasl.server.callback.handler.class": f"{oauth}.OAuthBearerValidatorCallbackHandler",
        "sasl.oauthbearer.jwks.endpoint.url": tokens.keys_url,
        "sasl.oauthbearer.expected.audience": AUDIENCE,
        "sasl.oauthbearer.expected.issuer": tokens.url,
    }
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def _kafka(config: StackConfig, state: StateDir, tokens: TokenEndpoint) -> ProcessSpec:
    spec = kafka.broker(config, state, 1)
    java, *rest = spec.argv
    return replace(spec, argv=(java, f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={tokens.keys_url}", *rest))


def _minio(config: StackConfig, state: StateDir, server: tuple[Path, Path]) -> ProcessSpec:
    spec = minio.server(config, state)
    certificates = state.part("minio") / "certs"
    certificates.mkdir(exist_ok=True)
    shutil.copy(server[0], certificates / "public.crt")
    shutil.copy(server[1], certificates / "private.key")
    return replace(spec, ready=_listens(config.ports["minio"]))


def _postgres(stack: ExitStack, config: StackConfig, programs: Path, server: tuple[Path, Path]) -> ProcessSpec:
    """A database of Debian's PostgreSQL, which asks for the certificate's key as its own file."""
    account = postgres.account()
    home = Path(stack.enter_context(_directory_of_account()))
    owner = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    (home / "password").write_text(config.secrets.postgres_password)
    shutil.copy(server[0], home / "server.crt")
    shutil.copy(server[1], home / "server.key")
    for path in (home, *home.iterdir()):
        path.chmod(0o700 if path.is_dir() else 0o600)
        if account is not None:
            os.chown(path, account.uid, account.gid)

    def run(*argv: str | Path, text: str = "") -> None:
        subprocess.run(argv, check=True, capture_output=True, text=True, input=text, cwd=home, timeout=60, **owner)

    data = home / "data"
    run(
        *(programs / "initdb", f"--pgdata={data}", f"--username={postgres.ROLE}", "--auth=scram-sha-256"),
        *(f"--pwfile={home / 'password'}", "--encoding=UTF8", "--locale=C.UTF-8"),
    )
    run(programs / "postgres", "--single", "-D", data, "postgres", text=f"CREATE DATABASE {DATABASE}\n")
    # Only TLS is accepted, so that a client without it shows.
    (data / "pg_hba.conf").write_text(f"hostssl all all {LOOPBACK}/32 scram-sha-256\n")
    port = config.ports["postgres"]
    settings = {
        "port": port,
        "listen_addresses": LOOPBACK,
        "unix_socket_directories": "",
        "ssl": "on",
        "ssl_cert_file": home / "server.crt",
        "ssl_key_file": home / "server.key",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return ProcessSpec(
        name="postgres",
        argv=(str(programs / "postgres"), "-D", str(data), *options),
        cwd=home,
        log=home / "postgres.log",
        user=account,
        ready=postgres_accepts(programs / "pg_isready", port),
        stop_signal=signal.SIGINT,
    )


@contextmanager
def _directory_of_account() -> Iterator[Path]:
    """A directory that an account other than root can reach."""
    folder = in_memory_directory()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> Callable[[], bool]:
    def check() -> bool:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
        return True

    return check


def _run(stack: ExitStack, spec: ProcessSpec) -> None:
    """Run a server until the stack is closed, and wait until it serves."""
    account = f"{spec.user.uid}:{spec.user.gid}" if spec.user else "-"
    with spec.log.open("ab") as log:
        process = subprocess.Popen(
            ends_with_this_process(spec.argv, account=account),
            env={**os.environ, **spec.env},
            cwd=spec.cwd,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    stack.callback(_stop, process, spec)

    def is_ready() -> bool:
        assert process.poll() is None, spec.log.read_text()[-3000:]
        assert spec.ready is not None
        try:
            return spec.ready()
        except OSError:
            return False

    until(is_ready, READY_S_MAX, f"{spec.name} to serve")


def _stop(process: "subprocess.Popen[bytes]", spec: ProcessSpec) -> None:
    if process.poll() is None:
        process.send_signal(spec.stop_signal)
    try:
        process.wait(spec.stop_s_max)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
