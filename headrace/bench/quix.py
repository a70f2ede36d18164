"""Quix Streams doing only the S3 part, beside Headrace: run in an environment of its own, from a checkout.

Its packages, and py-spy, are pinned in benchmarks/requirements.txt and are no dependency of the project.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from headrace.bench.figures import Worked, rate
from headrace.bench.processes import Bench, Profiler
from headrace.runtime.errors import Exit, HeadraceError

Say: TypeAlias = Callable[[str], None]

FOLDER = Path(__file__).parents[2] / "benchmarks"
_INSTALL_S_MAX = 600
_RUN_S_MAX = 600
_LOG_CHARACTERS_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What Quix does: messages of a topic in one object, and in one checkpoint."""

    topic: str
    count: int
    pack: int
    checkpoint: int


@dataclass(frozen=True, slots=True)
class QuixFigures:
    """Messages per second and the CPU that it took."""

    per_s: float
    worked: Worked


@dataclass(frozen=True, slots=True)
class PeerEnvironment:
    """A virtual environment with the peers' packages."""

    root: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.root / "bin" / "python"

    def profiler(self, folder: Path) -> Profiler:
        """Return py-spy, for flame graphs in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        return Profiler(self.root / "bin" / "py-spy", folder)

    def quix(self, bench: Bench, pipeline: Pipeline) -> QuixFigures:
        """Run Quix Streams over messages that are in their topic already.

        Raises:
            HeadraceError: it failed, or took too long.
        """
        settings = bench.settings
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HEADRACE_", "PYTHON"))
        }
        peer = {
            "PEER_BOOTSTRAP": settings.kafka_bootstrap,
            "PEER_ENDPOINT": settings.store_endpoint,
            "PEER_BUCKET": settings.store_url.removeprefix("s3://"),
            "AWS_ACCESS_KEY_ID": settings.store_access_key.get_secret_value(),
            "AWS_SECRET_ACCESS_KEY": settings.store_secret_key.get_secret_value(),
            "AWS_DEFAULT_REGION": settings.store_region or "us-east-1",
        }
        options = [f"--{name}={getattr(pipeline, name)}" for name in ("count", "pack", "checkpoint")]
        try:
            ended = subprocess.run(
                [self.python, "-P", FOLDER / "quix_s3.py", pipeline.topic, *options],
                cwd=bench.folder,
                env=env | peer,
                capture_output=True,
                text=True,
                timeout=_RUN_S_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise HeadraceError("bench_late", f"Quix Streams did not end after {_RUN_S_MAX} s") from None
        if ended.returncode:
            raise HeadraceError(
                "bench_failed", f"Quix Streams failed: …{ended.stderr[-_LOG_CHARACTERS_SHOWN:].strip()}"
            )
        figures = json.loads(ended.stdout.splitlines()[-1])
        return QuixFigures(rate(figures["messages"], figures["seconds"]), Worked(figures["cpu_s"], figures["messages"]))


def peer_environment(say: Say) -> PeerEnvironment | None:
    """Return the peers' environment, and make it first if need be; None outside of a checkout.

    Raises:
        HeadraceError: the packages cannot be installed.
    """
    requirements = FOLDER / "requirements.txt"
    if not requirements.is_file():
        return None
    environment = PeerEnvironment(FOLDER / ".peers")
    ready = environment.root / "installed.txt"
    if ready.is_file() and ready.read_bytes() == requirements.read_bytes():
        return environment
    say("installing Quix Streams, boto3 and py-spy into benchmarks/.peers (first time, about a minute)")
    shutil.rmtree(environment.root, ignore_errors=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--requirement"]
    commands: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", environment.root],
        [environment.python, *install, requirements],
    ]
    for command in commands:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S_MAX, check=False)
        if ended.returncode:
            raise HeadraceError(
                "peers_missing",
                f"the packages of the peers cannot be installed: …{ended.stderr[-_LOG_CHARACTERS_SHOWN:].strip()}",
                where=str(requirements),
                exit_code=Exit.FAILED,
            )
    shutil.copyfile(requirements, ready)
    return environment
