import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from headrace.native import supervisor as supervisor_module
from headrace.native.layout import StateDir
from headrace.native.process import ProcessSpec, RestartPolicy
from headrace.native.state_file import (
    STACK_ID_VARIABLE,
    ProcessState,
    find_process,
    read_state,
    stack_processes,
    wait_ended,
)
from headrace.native.supervisor import Supervisor

pytestmark = pytest.mark.server

SLEEP = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
STACK_ID = "0123456789abcdef"
ROOT = Path(__file__).parents[2]


class Run:
    """A supervisor of stand-ins inside the test's own process."""

    def __init__(self, tmp_path: Path) -> None:
        self.state = StateDir.at(tmp_path)
        self.state.create()
        self.said: list[str] = []
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def process(self, name: str, argv: tuple[str, ...] = SLEEP, **more: object) -> ProcessSpec:
        return ProcessSpec(name=name, argv=argv, cwd=self.state.root, log=self.state.log(name), **more)

    def start(self, *processes: ProcessSpec) -> None:
        self.supervisor = Supervisor(processes, self.state, stack_id=STACK_ID, log=self.said.append)
        self.task = asyncio.create_task(self.supervisor.run(self.stop))

    def of(self, name: str):
        return self.supervisor.processes[name].record

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not holds():  # noqa: ASYNC110 - what is watched is a value
                await asyncio.sleep(0.02)


@pytest.fixture
async def run(tmp_path):
    running = Run(tmp_path)
    yield running
    running.stop.set()
    if running.task:
        await running.task


async def test_what_others_depend_on_starts_first_and_stops_last(run):
    order = run.state.root / "order"
    script = "import signal,sys,time,pathlib\np = pathlib.Path(sys.argv[1])\n"
    script += "def end(*_):\n    p.open('a').write('-' + sys.argv[2])\n    sys.exit(0)\n"
    script += "signal.signal(15, end)\np.open('a').write('+' + sys.argv[2])\ntime.sleep(60)\n"

    def noting(name: str, *needs: str) -> ProcessSpec:
        argv = (sys.executable, "-S", "-c", script, str(order), name)
        ready = lambda: order.exists() and f"+{name}" in order.read_text()  # noqa: E731
        return run.process(name, argv, depends_on=needs, ready=ready)

    run.start(noting("c", "b"), noting("b", "a"), noting("a"))
    await run.until(lambda: run.of("c").state is ProcessState.READY)
    run.stop.set()
    await run.task
    assert order.read_text() == "+a+b+c-c-b-a"
    assert {process.state for process in read_state(run.state).processes} == {ProcessState.STOPPED}
    assert read_state(run.state).supervisor_pid is None


async def test_a_killed_child_is_started_again_and_counted(run):
    run.start(run.process("one"))
    await run.until(lambda: run.of("one").state is ProcessState.READY)
    first = run.of("one").pid
    find_process(first, STACK_ID).kill()
    await run.until(lambda: run.of("one").restarts == 1 and run.of("one").state is ProcessState.READY)
    assert run.of("one").pid != first
    assert run.of("one").last_exit == "killed by SIGKILL"
    assert any("killed by SIGKILL; starting it again in 0.5 s" in line for line in run.said)


async def test_one_that_ended_over_its_quota_is_not_started_at_once(run):
    run.start(run.process("bad", (sys.executable, "-S", "-c", "raise SystemExit(78)")))
    await run.until(lambda: run.of("bad").state is ProcessState.RESTARTING)
    assert run.of("bad").last_exit == "exit 78 (too many dead letters in a row), starts again 60 s later"
    run.stop.set()
    async with asyncio.timeout(5):
        await run.task


async def test_a_full_disk_keeps_nothing_from_being_started_again(run, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_LOGS_POLL_S", 0.05)
    run.start(run.process("one"))
    await run.until(lambda: run.of("one").state is ProcessState.READY)
    written = supervisor_module.write_state

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(supervisor_module, "write_state", full)
    find_process(run.of("one").pid, STACK_ID).kill()
    await run.until(lambda: run.of("one").restarts == 1 and run.of("one").state is ProcessState.READY)
    assert [line for line in run.said if "state file" in line] == [
        "WARNING: the state file cannot be written: No space left on device"
    ]
    monkeypatch.setattr(supervisor_module, "write_state", written)
    await run.until(lambda: read_state(run.state).processes[0].restarts == 1)


async def test_a_change_starts_what_is_new_stops_what_is_gone_and_leaves_the_rest(run):
    run.start(run.process("kept"), run.process("gone", depends_on=("kept",)))
    await run.until(lambda: run.of("gone").state is ProcessState.READY)
    kept, gone = run.of("kept").pid, run.of("gone").pid
    await run.supervisor.change((run.process("kept"), run.process("new", depends_on=("kept",))))
    await run.until(lambda: run.of("new").state is ProcessState.READY)
    assert run.of("kept").pid == kept
    assert find_process(gone, STACK_ID) is None
    assert {process.name for process in read_state(run.state).processes} == {"kept", "new"}


async def test_a_log_is_kept_small_while_its_process_runs(run, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_LOGS_POLL_S", 0.05)
    monkeypatch.setattr(supervisor_module, "LOG_BYTES_MAX", 1000)
    script = "import time\nwhile True:\n    print('x' * 99, flush=True)\n    time.sleep(0.005)"
    chatty = run.process("chatty", (sys.executable, "-S", "-c", script))
    run.start(chatty)
    old = chatty.log.with_suffix(".log.1")
    await run.until(lambda: old.exists() and old.stat().st_size > 1000)
    await run.until(lambda: chatty.log.stat().st_size < 1000)


async def test_what_runs_once_lets_the_next_start_only_when_it_succeeded(run):
    flag = run.state.root / "flag"
    script = "import pathlib,sys; p = pathlib.Path(sys.argv[1]); ok = p.exists(); p.touch(); sys.exit(not ok)"
    once = run.process("once", (sys.executable, "-S", "-c", script, str(flag)), restart=RestartPolicy.ON_FAILURE)
    run.start(once, run.process("after", depends_on=("once",)))
    await run.until(lambda: run.of("once").restarts == 1)
    assert run.of("after").state is ProcessState.WAITING
    await run.until(lambda: run.of("after").state is ProcessState.READY)
    assert run.of("once").state is ProcessState.DONE


async def test_one_that_ignores_its_signal_is_killed_with_what_it_started(run):
    script = "import signal,subprocess,sys,time; signal.signal(15, signal.SIG_IGN)\n"
    script += "print(subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']).pid, flush=True)\n"
    script += "time.sleep(60)"
    stubborn = run.process("stubborn", (sys.executable, "-S", "-c", script), stop_s_max=0.3)
    run.start(stubborn)
    await run.until(lambda: stubborn.log.exists() and stubborn.log.read_text().strip() != "")
    grandchild = int(stubborn.log.read_text())
    run.stop.set()
    await run.task
    assert "stubborn: did not stop in 0 s, killing it" in run.said
    await run.until(lambda: not alive(grandchild))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_PDEATHSIG")
async def test_a_killed_supervisor_takes_its_processes_with_it(tmp_path):
    """The kernel sends each its own stop signal; what it started itself ends as after any other stop."""
    (tmp_path / "logs").mkdir()
    script = f"""
import asyncio, signal, sys
from pathlib import Path
from headrace.native.layout import StateDir
from headrace.native.process import ProcessSpec
from headrace.native.supervisor import Supervisor
state = StateDir.at(Path({str(tmp_path)!r}))
program = "import signal, sys, time\\ndef end(number, _):\\n    print(number, flush=True)\\n    sys.exit()\\n"
program += "signal.signal(2, end)\\nsignal.signal(15, end)\\nprint('runs', flush=True)\\ntime.sleep(60)"
argv = (sys.executable, "-S", "-c", program)
specs = tuple(
    ProcessSpec(name=name, argv=argv, cwd=state.root, log=state.log(name), stop_signal=number)
    for name, number in (("term", signal.SIGTERM), ("int", signal.SIGINT))
)
asyncio.run(Supervisor(specs, state, stack_id={STACK_ID!r}, log=print).run(asyncio.Event()))
"""

    def logged(name: str) -> list[str]:
        log = tmp_path / "logs" / f"{name}.log"
        return log.read_text().split() if log.exists() else []

    async def both_logged(lines: dict[str, list[str]]) -> None:
        async with asyncio.timeout(15):
            while {name: logged(name) for name in lines} != lines:  # noqa: ASYNC110 - what is watched is a file
                await asyncio.sleep(0.02)

    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env={**os.environ, STACK_ID_VARIABLE: STACK_ID}
    )
    await both_logged({"term": ["runs"], "int": ["runs"]})
    running = stack_processes(STACK_ID)
    assert len(running) == 3
    supervisor.kill()
    await both_logged({"term": ["runs", "15"], "int": ["runs", "2"]})
    await supervisor.wait()
    assert await asyncio.to_thread(wait_ended, running, 15.0) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_program_inherits_no_ignored_signals(run):
    run.start(run.process("shell", ("/bin/sh", "-c", "grep SigIgn /proc/self/status")))
    log = run.state.log("shell")
    await run.until(lambda: log.exists() and "SigIgn" in log.read_text())
    ignored = int(log.read_text().split()[1], 16)
    # What Python ignores for itself is not passed on; what whoever started the tests ignored (nohup) stays so.
    given = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
    given -= {signal.SIGPIPE, signal.SIGXFSZ}
    assert {number for number in signal.valid_signals() if ignored >> (number - 1) & 1} - given == set()


async def test_stopping_at_once_leaves_nothing(run):
    run.start(*(run.process(f"p{number}") for number in range(5)))
    await asyncio.sleep(0)
    run.stop.set()
    await run.task
    mine = psutil.Process().children(recursive=True)
    assert not [child for child in mine if child.cmdline() == list(SLEEP)]


async def test_a_program_that_cannot_be_started_is_tried_again_and_named(run):
    run.start(run.process("missing", ("/nonexistent/program",)))
    await run.until(lambda: run.of("missing").restarts == 1)
    assert "could not be started" in run.of("missing").last_exit
    assert run.of("missing").stop_signal == signal.SIGTERM


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_PDEATHSIG")
def test_what_a_test_started_ends_when_the_test_process_is_killed():
    script = """
import subprocess, sys, time
from tests.processes import ends_with_this_process
program = [sys.executable, "-S", "-c", "import time; print('runs', flush=True); time.sleep(60)"]
process = subprocess.Popen(ends_with_this_process(program), stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT) as owner:
        assert owner.stdout is not None
        started = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
    started.wait(15)
