"""MinIO, the S3 store of a development machine; built once with Go if there is no binary."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.native.checks import http_answers
from headrace.native.config import BUCKET, LOOPBACK, STORE_REGION, StackConfig
from headrace.native.downloads import UNTRUSTED, UNTRUSTED_HINT, is_untrusted
from headrace.native.layout import StateDir, cache_home, locked
from headrace.native.process import ProcessSpec
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import load_settings

_PROGRESS_EVERY_S = 5.0
_BUILD_S_MAX = 1800.0


class BuildError(Exception):
    """Go could not build the program; the text is Go's last output."""


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A program: its Go package, its exact version, and the name of the binary."""

    name: str
    package: str
    version: str

    @property
    def built(self) -> Path:
        """The path of the binary once it has been built."""
        return cache_home() / f"{self.name}-{self.version}" / self.name


def go_install(program: GoProgram, go: str, progress: Callable[[str], None]) -> Path:
    """Build the program if that has not been done; may be repeated, also by several processes at once.

    Raises BuildError.
    """
    built = program.built
    with locked(built.parent / "install.lock"):
        if not built.is_file():
            _build(program, go, progress)
    return built


def _build(program: GoProgram, go: str, progress: Callable[[str], None]) -> None:
    started, built = time.monotonic(), program.built
    directory = Path(tempfile.mkdtemp(prefix="build-", dir=built.parent))
    try:
        with (directory / "output").open("w+b") as output:
            build = subprocess.Popen(
                [go, "install", f"{program.package}@{program.version}"],
                env={**os.environ, "GOBIN": str(directory), "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                _watch(build, program.name, started, progress)
            finally:
                if build.poll() is None:
                    build.kill()
                    build.wait()
        if build.returncode != 0:
            raise BuildError(_last_line((directory / "output").read_text(errors="replace")))
        # Go names the binary after the last part of its package's path.
        (directory / program.package.rsplit("/", 1)[-1]).replace(built)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    progress(f"{program.name}: built in {time.monotonic() - started:.0f} s")


def _watch(build: "subprocess.Popen[bytes]", name: str, started: float, progress: Callable[[str], None]) -> None:
    while time.monotonic() - started < _BUILD_S_MAX:
        try:
            build.wait(_PROGRESS_EVERY_S)
        except subprocess.TimeoutExpired:
            progress(f"{name}: building, {time.monotonic() - started:.0f} s so far")
        else:
            return


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("go: downloading")]
    return lines[-1][:300] if lines else "it took too long"


MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""The last commit before its repository was archived."""

_PROGRAM = GoProgram("minio", "github.com/minio/minio", MINIO_VERSION)
_STOP_S_MAX = 5.0


def binary_at_hand() -> Path | None:
    """Return the binary to use without building one: HEADRACE_MINIO_BINARY, an earlier build, or the one on PATH.

    Raises HeadraceError when HEADRACE_MINIO_BINARY is not a program, or another setting is wrong.
    """
    named = load_settings().minio_binary
    if named:
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named).absolute()
        raise HeadraceError(
            "setting_invalid",
            f"HEADRACE_MINIO_BINARY is {named}, which is not a program",
            hint="set it to the path of a `minio` binary, or remove it",
            exit_code=2,
        )
    if _PROGRAM.built.is_file():
        return _PROGRAM.built
    on_path = shutil.which("minio")
    return Path(on_path) if on_path else None


def install(progress: Callable[[str], None]) -> Path:
    """Return the binary, built if there is none (minutes, once); may be repeated, also by several processes at once.

    Raises HeadraceError when it cannot be built.
    """
    binary = binary_at_hand()
    if binary:
        return binary
    go = shutil.which("go")
    if go is None:
        raise HeadraceError(
            "minio_missing",
            "there is no MinIO on this machine, and no Go to build it",
            hint="install Go 1.24 or newer, or put a `minio` binary on PATH or set HEADRACE_MINIO_BINARY to it, or use "
            "a local directory with `--store local`, or run the processes one by one with HEADRACE_STORE_URL set to an "
            "S3 bucket",
            exit_code=3,
        )
    progress("minio: building it with `go install` (once, about 3 minutes)")
    try:
        return go_install(_PROGRAM, go, progress)
    except BuildError as error:
        raise _build_failed(str(error)) from None


def server(config: StackConfig, state: StateDir) -> ProcessSpec:
    """Return the server's process."""
    home, port = state.part("minio"), config.ports["minio"]
    return ProcessSpec(
        name="minio",
        argv=(
            *(str(config.installed.minio), "server", "--quiet", "--address", f"{LOOPBACK}:{port}"),
            *("--certs-dir", str(home / "certs"), str(home / "data")),
        ),
        env={
            "MINIO_ROOT_USER": config.secrets.store_access_key,
            "MINIO_ROOT_PASSWORD": config.secrets.store_secret_key,
            "MINIO_REGION": STORE_REGION,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        },
        cwd=home,
        log=state.log("minio"),
        address=f"{LOOPBACK}:{port}",
        ready=http_answers(port, "/minio/health/ready"),
        stop_s_max=_STOP_S_MAX,
    )


def endpoint(config: StackConfig) -> str:
    """Return the URL of its S3 API."""
    return f"http://{LOOPBACK}:{config.ports['minio']}"


def create_bucket(config: StackConfig, state: StateDir) -> None:
    """Create the bucket in a running MinIO; may be repeated."""
    from headrace.store.blobs.bucket import ensure_bucket  # loads a client that nothing else here needs
    from headrace.store.blobs.store_url import StoreAccess

    if not (state.part("minio") / "data" / BUCKET).is_dir():
        secrets = config.secrets
        access = StoreAccess(endpoint(config), STORE_REGION, secrets.store_access_key, secrets.store_secret_key)
        asyncio.run(ensure_bucket(f"s3://{BUCKET}", access, staging_days=load_settings().staging_retention_days))


def _build_failed(reason: str) -> HeadraceError:
    return HeadraceError(
        "minio_build_failed",
        f"MinIO could not be built: {UNTRUSTED if is_untrusted(reason) else reason}",
        where="go install",
        hint=UNTRUSTED_HINT
        if is_untrusted(reason)
        else "check that Go is 1.24 or newer and that its module proxy is reachable, then run it again, or put a "
        "`minio` binary on PATH, or use a local directory with `--store local`",
        exit_code=3,
    )
