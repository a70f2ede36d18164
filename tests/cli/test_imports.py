"""What is imported when: a command and a process load what they need, from the packages of their extras alone."""

import json
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from headrace.runtime.errors import Exit

pytestmark = pytest.mark.server

ENDS_S_MAX = 60.0
MIGRATIONS = ("alembic", "psycopg", "sqlalchemy")
BUCKETS = ("aiobotocore", "botocore")
HEAVY = ("asyncio", "asyncpg", "confluent_kafka", "fastavro", "obstore", "orjson", "pydantic", "rich", "structlog")
_BLOCK = """
import sys
blocked = set({blocked!r})
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""
_COMMANDS = """
import contextlib, io, json
from headrace.cli.app import main
results = []
for arguments in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["headrace", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


@cache
def distributions(*extras: str) -> set[str]:
    """Return the distributions that installing these extras of Headrace brings, Headrace among them."""
    brought: set[tuple[str, str]] = set()
    pending = [("headrace", extra) for extra in ("", *extras)]
    while pending:
        name, extra = pending.pop()
        if (name, extra) in brought:
            continue
        brought.add((name, extra))
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                pending += [(canonicalize_name(needed.name), each) for each in ("", *needed.extras)]
    return {name for name, _ in brought}


@cache
def owners() -> dict[str, set[str]]:
    """Return the distributions that each top-level module comes from."""
    distributions_of = metadata.packages_distributions()
    return {module: {canonicalize_name(name) for name in names} for module, names in distributions_of.items()}


def run(
    code: str, *arguments: str, extras: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run code where only the packages of these extras can be imported, and none of the modules `without`."""
    allowed = distributions(*extras)
    blocked = {module for module, names in owners().items() if not names & allowed} | set(without)
    return subprocess.run(
        [sys.executable, "-c", _BLOCK.format(blocked=sorted(blocked)) + code, *arguments],
        capture_output=True, text=True, timeout=ENDS_S_MAX, check=False,
    )  # fmt: skip


def test_help_loads_nothing_but_the_command_line_itself() -> None:
    [[code, _, err]] = json.loads(run(_COMMANDS, json.dumps([["--help"]]), without=HEAVY).stdout)
    assert (code, err) == (Exit.OK, "")


def test_help_of_a_command_needs_no_extra() -> None:
    helps = [["worker", "--help"], ["publish", "--help"], ["publish", "frame", "--help"]]
    results = json.loads(run(_COMMANDS, json.dumps(helps)).stdout)
    assert [(code, err) for code, _, err in results] == [(Exit.OK, "")] * len(helps)


def test_the_package_alone_loads_nothing_of_others() -> None:
    ended = run("import headrace", without=(*HEAVY, "typer"))
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "extras", "without"),
    [
        ("from headrace import Device, Publisher, consume, ldo_sink", (), ("typer",)),
        ("from headrace import *", ("camera", "service"), ("typer",)),
        ("from headrace.producers import *", ("camera",), ("typer",)),
        ("import headrace.initialize", ("service",), ()),
        ("import headrace.streams.worker.app", ("service",), (*MIGRATIONS, *BUCKETS)),
        ("import headrace.streams.relay.app", ("service",), (*MIGRATIONS, *BUCKETS, "aiohttp", "aiokafka", "faust")),
        ("import headrace.streams.consumers.app", ("camera", "service"), (*MIGRATIONS, *BUCKETS, "av", "faust")),
        ("import headrace.gateway.app", ("gateway",), ("PIL",)),
        ("import headrace.gateway.capture.worker", ("camera", "gateway"), ("redis", "uvicorn")),
        ("import headrace.batch.maintenance.app, headrace.batch.redrive", ("service",), ()),
        ("import headrace.batch.export.parquet", ("export",), ()),
        ("import headrace.native, headrace.demo.run, headrace.bench.run", ("native",), ()),
    ],
)
def test_a_part_needs_no_package_beyond_its_extras(
    code: str, extras: tuple[str, ...], without: tuple[str, ...]
) -> None:
    ended = run(code, extras=extras, without=without)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_command_names_the_extras_it_lacks() -> None:
    lacking = {
        "init": "service",
        "worker": "service",
        "relay": "service",
        "consumer perception": "camera,service",
        "gateway": "gateway",
        "capture": "camera,gateway",
        "maintenance": "service",
        "transfer": "service",
        "fetch C-1": "service",
        "ls": "service",
        "show C-1": "service",
        "get C-1": "service",
        "dlq ls": "service",
        "dlq redrive": "service",
        "keys ls": "service",
        "fsck": "service",
        "archive": "service",
        "restore C-1": "service",
        "export jsonl exports": "service",
        "label --with functions.py": "service",
        "ingest-urls list.txt": "service",
        "import-platform --date-from 2026-11-01": "service",
        "publish frame --source line-3 .": "camera",
        "up": "native",
        "down": "native",
        "status": "native",
        "logs": "native",
        "scale --workers 2": "native",
        "camera list": "native",
        "camera test rtsp://127.0.0.1/s": "camera,gateway",
        "kafka topics": "native",
        "demo": "native",
        "bench": "native",
    }
    ended = run(_COMMANDS, json.dumps([command.split() for command in lacking]))
    for (command, extras), (code, out, err) in zip(lacking.items(), json.loads(ended.stdout), strict=True):
        assert (command, code, out) == (command, Exit.USAGE, "")
        assert re.fullmatch(
            rf"package_missing: the command needs \S+, which is not installed\n"
            rf"hint: pip install 'headrace\[{extras}\]'\n",
            err,
        ), command


def test_a_public_name_names_the_extra_it_lacks() -> None:
    ended = run("from headrace import Camera")
    assert ended.stderr.splitlines()[-1].endswith("is not installed: pip install 'headrace[camera]'")


def test_a_device_publishes_without_extras(tmp_path: Path) -> None:
    script = """
import os
from pathlib import Path
from headrace import Device
from headrace.producers import SpooledPublisher
from headrace.runtime.settings import Settings
publisher = SpooledPublisher.from_settings(Settings(_env_file=None), Path(sys.argv[1]))
Device(publisher, "line-3").scan("C-1")
os._exit(0)
"""
    ended = run(script, str(tmp_path))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert any(tmp_path.iterdir())
