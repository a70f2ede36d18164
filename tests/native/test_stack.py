import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import obstore
import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.native import StackInfo, StackOptions, down, kill, restart_count, state_file, status, up
from headrace.native.config import read_config
from headrace.native.disks import disks_of
from headrace.native.layout import StateDir
from headrace.native.readiness import asked_status
from headrace.native.state_file import ProcessState, running_supervisor, stack_processes, wait_ended
from headrace.native.tools import run_tool
from headrace.runtime.errors import HeadraceError
from headrace.runtime.stack_settings import stack_variables

pytestmark = pytest.mark.stack


def until(holds: Callable[[], bool], s_max: float = 20) -> None:
    deadline = time.monotonic() + s_max
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def stack_id(info: StackInfo) -> str:
    return read_config(StateDir.at(info.state_dir)).stack_id


def create_topic(info: StackInfo, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": info.kafka})
    admin.create_topics([NewTopic(name, 1)])[name].result(10)


def topics(info: StackInfo) -> set[str]:
    return set(AdminClient({"bootstrap.servers": info.kafka}).list_topics(timeout=10).topics)


def test_kafka_takes_and_gives_messages_of_nine_megabytes(stack):
    create_topic(stack, "large")
    body = os.urandom(9 * 1024 * 1024)
    producer = Producer({"bootstrap.servers": stack.kafka, "message.max.bytes": 10 * 1024 * 1024, "acks": "all"})
    producer.produce("large", body)
    assert producer.flush(20) == 0
    consumer = Consumer({"bootstrap.servers": stack.kafka, "group.id": "g", "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe(["large"])
        message = consumer.poll(20)
        assert message.error() is None
        assert message.value() == body
    finally:
        consumer.close()


def test_postgresql_is_durable_and_wants_its_password(stack):
    with psycopg.connect(stack.postgres_dsn) as connection:
        assert connection.execute("SHOW server_version_num").fetchone()[0].startswith("18")
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        assert connection.execute("SELECT current_database()").fetchone() == ("headrace",)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(stack.public()["postgres"], passfile="/nonexistent")


def test_the_store_keeps_objects(stack):
    if stack.store == "minio":
        store = obstore.store.S3Store.from_url(
            stack.store_url,
            endpoint=stack.store_endpoint,
            access_key_id=stack.store_access_key,
            secret_access_key=stack.store_secret_key,
            region="us-east-1",
            client_options={"allow_http": True},
        )
    else:
        store = obstore.store.LocalStore.from_url(stack.store_url)
    store.put("blobs/a", b"frame")
    assert store.get("blobs/a").bytes() == b"frame"


def test_secrets_stay_out_of_command_lines_and_reports(stack):
    config = read_config(StateDir.at(stack.state_dir))
    secrets = [getattr(config.secrets, name) for name in config.secrets.__slots__]
    shown = [str(stack.public()), repr(stack), repr(config), str(status(stack.state_dir).public())]
    shown += [" ".join(process.cmdline()) for process in stack_processes(config.stack_id)]
    assert not [secret for secret in secrets if any(secret in text for text in shown)]
    for file in (stack.state_dir / "stack.json", stack.state_dir / "processes.json"):
        assert file.stat().st_mode & 0o777 == 0o600
    assert set(stack.public()) >= {"kafka", "postgres", "store", "gateway_url", "admin_key", "state_dir"}
    assert stack.env()["HEADRACE_POSTGRES_DSN"] == stack.postgres_dsn


def test_nothing_listens_beyond_the_loopback_address(stack):
    for process in stack_processes(stack_id(stack)):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, process.cmdline()


def test_a_killed_server_comes_back_and_is_counted(stack):
    before = restart_count(stack.state_dir, "valkey")
    kill(stack.state_dir, "valkey")
    until(lambda: restart_count(stack.state_dir, "valkey") == before + 1 and status(stack.state_dir).healthy)
    with pytest.raises(HeadraceError, match="no process nonsense, only kafka-1"):
        kill(stack.state_dir, "nonsense")


@pytest.mark.parametrize("name", ["postgres", "valkey", "kafka-1"])
def test_a_server_that_hangs_is_not_ready(stack, name):
    kill(stack.state_dir, name, signal.SIGSTOP)
    try:
        current = asked_status(stack.state_dir)
    finally:
        kill(stack.state_dir, name, signal.SIGCONT)
    states = {process.name: process.state for process in current.processes}
    assert states.pop(name) is ProcessState.NOT_READY
    assert not current.healthy
    assert set(states.values()) == {ProcessState.READY}
    until(lambda: asked_status(stack.state_dir).healthy)


def test_the_file_systems_of_a_stack_are_listed_once(stack):
    config = read_config(StateDir.at(stack.state_dir))
    held = [name for disk in disks_of(StateDir.at(stack.state_dir), config) for name in disk.holds]
    assert sorted(held) == ["kafka", "logs", "postgres", "store"]


def test_clients_find_the_stack_in_its_file(stack):
    assert stack_variables(stack.state_dir) == stack.env()
    assert (stack.state_dir / "client.json").stat().st_mode & 0o777 == 0o600


def test_the_console_tools_work(stack, capfd):
    assert run_tool(stack, "kafka-topics.sh", ["--create", "--topic", "tools", "--partitions", "2"]) == 0
    assert "Created topic tools." in capfd.readouterr().out
    assert run_tool(stack, "topics", ["--nonsense"]) == 1
    with pytest.raises(HeadraceError, match="no tool nonsense") as caught:
        run_tool(stack, "nonsense", [])
    assert caught.value.exit_code == 2
    assert "console-consumer" in caught.value.hint


def test_up_on_a_running_stack_says_so(stack):
    lines: list[str] = []
    pids = [process.pid for process in status(stack.state_dir).processes]
    again = up(StackOptions(stack.state_dir, stack.store, services=()), lines.append)
    assert again.public() == stack.public()
    assert lines == [f"already running in {stack.state_dir}"]
    assert [process.pid for process in status(stack.state_dir).processes] == pids
    with pytest.raises(HeadraceError, match=r"another stack runs in .*: brokers: 1, not 3\n"):
        up(StackOptions(stack.state_dir, stack.store, brokers=3, services=()), lines.append)


def test_a_second_stack_survives_a_killed_supervisor_with_its_data(stack, tmp_path, monkeypatch):
    """Beside the first one; also in a directory that an unprivileged PostgreSQL cannot pass through."""
    options = StackOptions(tmp_path / "state", "local", services=())
    lines: list[str] = []
    try:
        first = up(options, lines.append)
        assert first.kafka != stack.kafka
        create_topic(first, "kept")
        with psycopg.connect(first.postgres_dsn) as connection:
            connection.execute("CREATE TABLE kept (id int)")
        kill_supervisor(options.state_dir)
        assert not status(options.state_dir).running
        until(lambda: stack_processes(stack_id(first)) == [])
        assert {process.state for process in status(options.state_dir).processes} == {ProcessState.STOPPED}
        # PostgreSQL got the signal of a fast shutdown, as from `down`.
        assert "database system is shut down" in (options.state_dir / "logs/postgres.log").read_text()

        second = up(options, lines.append)
        assert second.env() == first.env()
        assert {"kept"} <= topics(second)
        with psycopg.connect(second.postgres_dsn) as connection:
            connection.execute("SELECT id FROM kept")
        assert len(stack_processes(stack_id(second))) >= 3

        # One that hangs does not hear the kernel's signal.
        kill(options.state_dir, "kafka-1", signal.SIGSTOP)
        kill_supervisor(options.state_dir)
        states = {process.name: process.state for process in status(options.state_dir).processes}
        assert states["kafka-1"] is ProcessState.LEFT_OVER
        monkeypatch.setattr(state_file, "_ORPHAN_STOP_S_MAX", 2.0)
        lines.clear()
        assert down(options.state_dir, progress=lines.append)
        assert any(line.startswith("kafka-1: left over") for line in lines)
        assert stack_processes(stack_id(second)) == []
        assert not down(options.state_dir, progress=lines.append)
        with pytest.raises(HeadraceError, match=r"holds a stack of 1 broker"):
            up(StackOptions(options.state_dir, "local", brokers=3, services=()), lines.append)
    finally:
        down(options.state_dir, purge=True, progress=lines.append)
    assert not options.state_dir.exists()
    assert not StateDir.at(options.state_dir).outside.exists()
    assert status(stack.state_dir).healthy


def test_a_stack_ends_with_the_process_that_owns_it():
    script = "import time\nfrom headrace.native import temporary_stack\n"
    script += "with temporary_stack('local') as info:\n    print(info.state_dir, flush=True)\n    time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        state_dir = Path(owner.stdout.readline().strip())
        config = read_config(StateDir.at(state_dir))
        assert stack_processes(config.stack_id)
        owner.kill()
    until(lambda: not state_dir.exists())
    until(lambda: stack_processes(config.stack_id) == [])


def kill_supervisor(state_dir: Path) -> None:
    supervisor = running_supervisor(StateDir.at(state_dir))
    supervisor.kill()
    assert wait_ended([supervisor], 20) == []
