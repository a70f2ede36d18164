"""The service's processes under the native supervisor, apart from the servers: `python -m tests.faults.fleet DIR`.

They are apart because they reach PostgreSQL and the store through proxies, which need the servers' addresses first.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import psutil

from headrace.native.checks import http_answers
from headrace.native.layout import StateDir, locked, write_private
from headrace.native.process import ProcessSpec
from headrace.native.state_file import (
    STACK_ID_VARIABLE,
    ProcessRecord,
    ProcessState,
    StateFile,
    find_process,
    read_state,
    running_supervisor,
    stop_orphans,
    wait_ended,
    write_state,
)
from headrace.native.supervisor import Supervisor, watch_owner
from tests.faults.armed import Control
from tests.processes import free_port

ROOT = Path(__file__).parents[2]
_STOP_S_MAX = 20.0
_POLL_S = 0.1
_ANSWER_S_MAX = 1.0
_STANDING_BY = b"standing by"


@dataclass(frozen=True, slots=True)
class Member:
    """One process of the fleet: the arguments after `headrace`, and what comes before the interpreter, if anything."""

    name: str
    args: tuple[str, ...]
    parked: bool = False
    prefix: tuple[str, ...] = ()


class Fleet:
    """The processes, from the outside. The supervisor ends with this process, however it ends."""

    def __init__(self, directory: Path, env: Mapping[str, str], members: Sequence[Member]) -> None:
        """Write down what is to run in `directory`, which holds the logs and the state file afterwards."""
        self.state = StateDir.at(directory)
        self.state.create()
        self.members = {member.name: member for member in members}
        self._ports = {name: free_port() for name in self.members}
        for member in members:
            if member.parked:
                self.control(member.name).park()
        stack_id = f"fleet-{os.getpid()}-{directory.name}"
        content = {
            "stack_id": stack_id,
            "owner_pid": os.getpid(),
            "env": dict(env),
            "members": [{**asdict(member), "port": self._ports[member.name]} for member in members],
        }
        self._stack_id = stack_id
        write_private(self.state.root / "fleet.json", json.dumps(content).encode())

    def start(self) -> None:
        """Start the supervisor; `wait_ready` tells when its processes serve."""
        write_state(self.state, StateFile())
        with self.state.log("supervisor").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.fleet", str(self.state.root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=ROOT,
                env={**os.environ, STACK_ID_VARIABLE: self._stack_id},
            )

    def stop(self) -> None:
        """Stop all of them; what does not stop in its time is killed."""
        supervisor = running_supervisor(self.state)
        if supervisor is not None:
            supervisor.send_signal(signal.SIGTERM)
            wait_ended([supervisor], 2 * _STOP_S_MAX)
        stop_orphans(self.state, self._stack_id, progress=lambda _: None)
        self._process.wait(_STOP_S_MAX)

    def control(self, name: str) -> Control:
        """What decides how this process starts the next time."""
        return Control(self.state.root / "control" / name)

    def port(self, name: str) -> int:
        """Where its health is told."""
        return self._ports[name]

    def leads(self, relay: str) -> bool:
        """Whether a relay says that it is the one that announces."""
        with (
            suppress(OSError, HTTPException),
            urlopen(f"http://127.0.0.1:{self.port(relay)}/livez", timeout=_ANSWER_S_MAX) as answer,
        ):
            return _STANDING_BY not in answer.read()
        return False

    def log(self, name: str) -> str:
        """Everything that it has logged so far."""
        path = self.state.log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def records(self) -> dict[str, ProcessRecord]:
        """What the supervisor knows of each."""
        return {record.name: record for record in read_state(self.state).processes}

    def active(self) -> list[str]:
        """The names of those that are not parked."""
        return [name for name in self.members if not self.control(name).parked]

    def pids(self, names: Sequence[str] | None = None) -> dict[str, int]:
        """The pid of each that runs and is not parked, or of those named."""
        pids_found = {}
        active = set(self.active() if names is None else names)
        for name, record in self.records().items():
            process = find_process(record.pid, self._stack_id) if name in active else None
            if process is not None:
                pids_found[name] = int(process.pid)
        return pids_found

    def all_ready(self) -> bool:
        """Whether all that are not parked serve."""
        records = self.records()
        return all(name in records and records[name].state is ProcessState.READY for name in self.active())

    def wait_ready(self, seconds: float) -> None:
        """Wait until all that are not parked serve; raises TimeoutError with the states."""
        deadline = time.monotonic() + seconds
        while not self.all_ready():
            if time.monotonic() > deadline:
                states = {name: f"{record.state} {record.last_exit or ''}" for name, record in self.records().items()}
                raise TimeoutError(f"not every process became ready in {seconds:.0f} s: {states}")
            time.sleep(_POLL_S)

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Send a signal to one process; False where it does not run."""
        record = self.records().get(name)
        process = find_process(record.pid, self._stack_id) if record else None
        if process is None:
            return False
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True


def _process(member: Mapping[str, object], env: Mapping[str, str], state: StateDir) -> ProcessSpec:
    name, port = str(member["name"]), int(str(member["port"]))
    prefix, args = (tuple(map(str, member[key])) for key in ("prefix", "args"))  # type: ignore[call-overload]
    control = state.root / "control" / name
    return ProcessSpec(
        name=name,
        argv=(*prefix, sys.executable, "-m", "tests.faults.armed", str(control), *args),
        env={**env, "HEADRACE_HEALTH_PORT": str(port), "HEADRACE_LOG_FORMAT": "json", "PYTHONPATH": str(ROOT)},
        cwd=state.root,
        log=state.log(name),
        ready=http_answers(port, "/readyz"),
        stop_s_max=_STOP_S_MAX,
    )


async def _supervise(state: StateDir) -> None:
    content = json.loads((state.root / "fleet.json").read_bytes())
    processes = tuple(_process(member, content["env"], state) for member in content["members"])
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    owner_task = asyncio.create_task(watch_owner(psutil.Process(content["owner_pid"]), stop))
    await Supervisor(processes, state, stack_id=content["stack_id"], log=_say).run(stop)
    owner_task.cancel()


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    _state = StateDir.at(Path(sys.argv[1]))
    with locked(_state.root / "supervisor.lock", wait_s_max=0):
        asyncio.run(_supervise(_state))
