"""PostgreSQL 18 from its wheel, on TCP with a password, durable as in production."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from headrace.native.checks import postgres_accepts
from headrace.native.config import DATABASE, StackConfig
from headrace.native.layout import StateDir
from headrace.native.ports import LOOPBACK
from headrace.native.process import Process, User
from headrace.runtime.errors import HeadraceError

ROLE = "headrace"
_INIT_S_MAX = 60
_STOP_S_MAX = 8.0
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "password_encryption": "scram-sha-256",
    "logging_collector": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


def init_database(config: StackConfig, progress: Callable[[str], None]) -> None:
    """Make the data directory with the database in it, where there is none; may be repeated.

    Raises HeadraceError when PostgreSQL's initdb fails.
    """
    tools = config.installed
    data = tools.postgres_home / "data"
    if data.exists():
        return
    progress("postgresql: creating the database")
    fresh = data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    password = data.with_name("password")
    _write_for(password, config.secrets.postgres_password, tools.postgres_user)
    try:
        _run(
            [
                *(str(tools.postgres_bin / "initdb"), f"--pgdata={fresh}", f"--username={ROLE}"),
                *("--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
            user=tools.postgres_user,
            cwd=tools.postgres_home,
        )
        # Single-user mode makes the database without a server, so a data directory in its place is complete.
        _run(
            [str(tools.postgres_bin / "postgres"), "--single", "-D", str(fresh), "postgres"],
            user=tools.postgres_user,
            cwd=tools.postgres_home,
            text=f"CREATE DATABASE {DATABASE}\n",
        )
    finally:
        password.unlink(missing_ok=True)
    fresh.rename(data)


def server(config: StackConfig, state: StateDir) -> Process:
    """The server's process."""
    tools, port = config.installed, config.ports["postgres"]
    settings = [part for name, value in {**_SETTINGS, "port": port}.items() for part in ("-c", f"{name}={value}")]
    return Process(
        name="postgres",
        argv=(str(tools.postgres_bin / "postgres"), "-D", str(tools.postgres_home / "data"), *settings),
        cwd=tools.postgres_home,
        log=state.log("postgres"),
        user=tools.postgres_user,
        address=f"{LOOPBACK}:{port}",
        ready=postgres_accepts(tools.postgres_bin / "pg_isready", port),
        # SIGTERM would wait until the last client has gone; SIGINT ends their sessions and closes down cleanly.
        stop_signal=signal.SIGINT,
        stop_s_max=_STOP_S_MAX,
    )


def dsn(config: StackConfig, *, with_password: bool) -> str:
    """The address of the database; without its password it may be shown."""
    login = f"{ROLE}:{config.secrets.postgres_password}" if with_password else ROLE
    return f"postgresql://{login}@{LOOPBACK}:{config.ports['postgres']}/{DATABASE}"


def _write_for(path: Path, text: str, user: User | None) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if user is not None:
            os.fchown(descriptor, user.uid, user.gid)
        file.write(text + "\n")


def _run(argv: list[str], *, user: User | None, cwd: Path, text: str = "") -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            input=text,
            cwd=cwd,
            timeout=_INIT_S_MAX,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )
        if done.returncode == 0 and "ERROR:" not in done.stderr:
            return
        reason = (done.stderr or done.stdout).strip()[-300:]
        raise HeadraceError(
            "postgres_init_failed",
            f"PostgreSQL's {Path(argv[0]).name} failed: {reason}",
            where=str(cwd),
            hint="make room on the disk or choose another state directory, and run it again",
        )
    raise HeadraceError("postgres_init_failed", f"PostgreSQL's {Path(argv[0]).name} took over {_INIT_S_MAX} s")
