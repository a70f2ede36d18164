"""The process that owns a stack's processes: `python -m headrace.native.supervisor STATE_DIR`.

It starts them as their dependencies become ready, starts again what ends, and stops them in reverse order on SIGTERM.
A lock on a file makes it the only one for its state directory. When it is killed, its children go on; the next `up` or
`down` finds them by what it recorded.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from headrace.native.config import read_config
from headrace.native.layout import StackBusyError, StateDir, locked
from headrace.native.log_files import rotate
from headrace.native.managed_process import ManagedProcess, Surroundings
from headrace.native.plan import plan
from headrace.native.process import Process, levels
from headrace.native.state_file import ProcessIdentity, StateFile, write_ledger

_OWNER_POLL_S = 0.5
_LOGS_POLL_S = 5.0


class Supervisor:
    """Runs the given processes until it is told to stop."""

    def __init__(
        self, processes: tuple[Process, ...], state: StateDir, *, stack_id: str, say: Callable[[str], None]
    ) -> None:
        depth = levels(processes)
        around = Surroundings(stack_id=stack_id, changed=self._record, say=say)
        self._state = state
        self._identity = ProcessIdentity.of(os.getpid())
        self.children = {process.name: ManagedProcess(process, depth[process.name], around) for process in processes}

    async def run(self, stop: asyncio.Event) -> None:
        """Keep all of them running; returns when `stop` is set and all have ended."""
        self._record()
        keeping = [
            asyncio.create_task(child.keep_running([self.children[need] for need in child.process.depends_on]))
            for child in self.children.values()
        ]
        keeping.append(asyncio.create_task(self._keep_logs_small()))
        try:
            await stop.wait()
        finally:
            await self._stop_all(keeping)

    async def _keep_logs_small(self) -> None:
        logs = [child.process.log for child in self.children.values()] + [self._state.log("supervisor")]
        while True:
            for log in logs:
                with suppress(OSError):  # a disk that is full now may have room the next time
                    await asyncio.to_thread(rotate, log)
            await asyncio.sleep(_LOGS_POLL_S)

    async def _stop_all(self, keeping: list[asyncio.Task[None]]) -> None:
        for level in sorted({child.level for child in self.children.values()}, reverse=True):
            await asyncio.gather(*(child.stop() for child in self.children.values() if child.level == level))
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)
        write_ledger(self._state, StateFile(None, tuple(child.record for child in self.children.values())))

    def _record(self) -> None:
        write_ledger(self._state, StateFile(self._identity, tuple(child.record for child in self.children.values())))


async def watch_owner(owner: ProcessIdentity, stop: asyncio.Event) -> None:
    """A stack that belongs to a test or a demonstration ends with it, even when that was killed."""
    while owner.find() is not None:  # noqa: ASYNC110 - nobody tells of the end of a process that is not a child
        await asyncio.sleep(_OWNER_POLL_S)
    stop.set()


async def _supervise(state: StateDir) -> bool:
    """Run the stack that is written down in the state directory; return whether its owner is gone."""
    config = read_config(state)
    if config is None:
        _say(f"there is no usable {state.config}")
        return False
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watching = asyncio.create_task(watch_owner(config.owner, stop)) if config.owner else None
    await Supervisor(plan(config, state), state, stack_id=config.stack_id, say=_say).run(stop)
    if watching is not None:
        watching.cancel()
    return config.owner is not None and config.owner.find() is None


def _say(text: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f"{stamp} {text}\n")
    sys.stderr.flush()


def main() -> None:
    """Leave the caller's process tree, so that nobody has to wait for this process, and supervise."""
    recorded, say_recorded = os.pipe()
    if os.fork() != 0:
        # The caller goes on when the other side is written, or closed by the end of the supervisor.
        os.close(say_recorded)
        os.read(recorded, 1)
        os._exit(0)
    os.setsid()
    state = StateDir.at(Path(sys.argv[1]))
    try:
        with locked(state.root / "supervisor.lock", wait=False):
            write_ledger(state, StateFile(ProcessIdentity.of(os.getpid())))
            os.close(say_recorded)
            owner_gone = asyncio.run(_supervise(state))
    except StackBusyError:
        _say("another supervisor runs here")
        return
    if owner_gone:
        with suppress(OSError):
            state.purge()


if __name__ == "__main__":
    main()
