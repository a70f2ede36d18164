import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.bench import quix
from headrace.bench.processes import Bench, Profiler
from headrace.bench.quix import PeerEnvironment, Pipeline, peer_environment
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import load_settings

PIPELINE = Pipeline("edge.ldos.v1", 500, pack=100, checkpoint=200)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    settings = load_settings(_env_file=None, store_url="s3://bucket/part", store_endpoint="http://127.0.0.1:9000")
    info: Any = SimpleNamespace()
    return Bench(info, settings, tmp_path)


def environment_with(folder: Path, script: str) -> PeerEnvironment:
    """An environment whose interpreter is a shell script."""
    python = folder / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o700)
    return PeerEnvironment(folder / "env")


def test_every_package_of_the_peers_is_pinned_with_its_hash():
    packages = re.split(r"^(?=\S)", (quix.FOLDER / "requirements.txt").read_text(), flags=re.MULTILINE)
    pinned = [package for package in packages if package and not package.startswith("#")]
    assert all("==" in package and "--hash=sha256:" in package for package in pinned)
    names = {package.partition("==")[0] for package in pinned}
    assert {"boto3", "py-spy", "quixstreams"} <= names


def test_outside_of_a_checkout_there_are_no_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quix, "FOLDER", tmp_path)
    assert peer_environment(lambda _: None) is None


def test_an_environment_is_made_once_for_each_set_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ran: list[list[Any]] = []

    def run(command: list[Any], **_: object) -> "subprocess.CompletedProcess[str]":
        ran.append(command)
        (tmp_path / ".peers").mkdir(exist_ok=True)
        failed = b"missing" in requirements.read_bytes()
        return subprocess.CompletedProcess(command, int(failed), "", "no such package")

    monkeypatch.setattr(quix, "FOLDER", tmp_path)
    monkeypatch.setattr(quix.subprocess, "run", run)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("boto3==1\n")
    made = peer_environment(lambda _: None)
    assert made == peer_environment(lambda _: None)
    assert [command[1:3] for command in ran] == [["-m", "venv"], ["-m", "pip"]]
    assert "--require-hashes" in ran[1]
    requirements.write_text("missing==1\n")
    with pytest.raises(HeadraceError, match="cannot be installed: …no such package"):
        peer_environment(lambda _: None)


def test_quix_gets_its_servers_and_says_what_it_did(bench: Bench, tmp_path: Path):
    seen = tmp_path / "seen"
    answer = '{"messages": 400, "seconds": 0.5, "cpu_s": 0.2}'
    script = f"""echo "$@ $PEER_BUCKET $PEER_ENDPOINT" > {seen}; echo started; echo '{answer}'"""
    figures = environment_with(tmp_path, script).quix(bench, PIPELINE)
    assert (figures.per_s, figures.worked.cpu_ms_each) == (800.0, 0.5)
    assert seen.read_text().split()[2:] == [
        "edge.ldos.v1",
        "--count=500",
        "--pack=100",
        "--checkpoint=200",
        "bucket/part",
        "http://127.0.0.1:9000",
    ]


def test_a_failure_of_quix_is_told_with_its_last_words(bench: Bench, tmp_path: Path):
    with pytest.raises(HeadraceError, match="Quix Streams failed: …no bucket"):
        environment_with(tmp_path, "echo no bucket >&2; exit 1").quix(bench, PIPELINE)


def test_no_flame_graph_is_written_over(tmp_path: Path):
    program = tmp_path / "py-spy"
    program.write_text('#!/bin/sh\necho "$@" > "$5"\n')
    program.chmod(0o700)
    for _ in range(2):
        assert Profiler(program, tmp_path).attach(7, "ldos-worker").wait(10) == 0
    assert (tmp_path / "ldos-worker.svg").read_text().startswith("record --pid 7 --output")
    assert (tmp_path / "ldos-worker-2.svg").exists()
