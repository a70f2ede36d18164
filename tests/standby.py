"""A streaming standby of the stack's PostgreSQL, which lags or takes over as a test wants."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psycopg
from pydantic import SecretStr

from headrace.native.postgres import account, programs
from headrace.runtime.settings import Settings
from tests.processes import ends_with_this_process, free_port
from tests.servers import in_memory_directory
from tests.waiting import until

ENDS_S_MAX = 60.0


class Standby:
    """A streaming standby of the stack's PostgreSQL, with its own data on a port of its own."""

    def __init__(self, settings: Settings, home: Path) -> None:
        self._user = account()
        self._bin = programs(self._user)
        self._home = home
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        address = urlsplit(settings.postgres_dsn.get_secret_value())
        here = address._replace(netloc=f"{address.username}:{address.password}@127.0.0.1:{self._port}").geturl()
        self._primary = address._replace(path="/postgres").geturl()
        self.dsn = here
        self.settings = settings.model_copy(update={"postgres_dsn": SecretStr(here)})

    @classmethod
    @contextmanager
    def of(cls, settings: Settings) -> "Iterator[Self]":
        """Copy the primary; the standby is stopped and removed on exit."""
        home = in_memory_directory()
        standby = cls(settings, home)
        try:
            if standby._user is not None:
                os.chown(home, standby._user.uid, standby._user.gid)
            source = ("--dbname", standby._primary, "--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf")
            standby._run("pg_basebackup", f"--pgdata={home / 'data'}", *source).wait(ENDS_S_MAX)
            yield standby
        finally:
            standby.stop()
            shutil.rmtree(home)

    def start(self, *options: str) -> None:
        fixed = ("-c", f"port={self._port}", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
        self._process = self._run("postgres", "-D", str(self._home / "data"), *fixed, *options)
        until(self._answers, ENDS_S_MAX, "the standby to answer")

    def promote(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            assert connection.execute("select pg_promote(true, 60)").fetchone() == (True,)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait(ENDS_S_MAX)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._home / "log").read_text()
        try:
            psycopg.connect(self.dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *args: str) -> "subprocess.Popen[bytes]":
        account_of = f"{self._user.uid}:{self._user.gid}" if self._user else "-"
        argv = ends_with_this_process([self._bin / program, *args], account=account_of)
        with (self._home / "log").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, cwd=self._home)
