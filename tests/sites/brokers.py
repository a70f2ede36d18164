"""Single brokers of a test: with listeners and rights of its own, or behind a proxy."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.native import kafka
from headrace.native.config import LOOPBACK, Secrets, ServerTools, StackConfig, assign_ports, broker_name, new_ids
from headrace.native.config import port_names as names_of_ports
from headrace.native.layout import StateDir
from headrace.native.prepare import install_kafka
from headrace.native.process import ProcessSpec
from headrace.native.sites import HEAP
from tests.processes import ends_with_this_process
from tests.servers import in_memory_directory
from tests.waiting import until

READY_S_MAX = 60.0
_STOP_S_MAX = 15.0


@dataclass
class Broker:
    """A broker of a test: its address, and that of a second listener if it has one."""

    bootstrap: str
    second: str
    folder: Path
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def broker(
    *, second: str = "", advertised: int | None = None, properties: Mapping[str, str] | None = None
) -> Iterator[Broker]:
    """Run a broker while the context lasts.

    `second` is the security protocol of a second listener, which clients are told to reach at the port `advertised`,
    or else at its own. `properties` replace the broker's.
    """
    folder = in_memory_directory()
    state = StateDir.at(folder)
    state.create()
    stack_id, cluster_id = new_ids()
    ports = assign_ports([*names_of_ports("local", 1, ()), "second"], {})
    nothing = Path("/nonexistent")
    config = StackConfig(
        stack_id=stack_id,
        cluster_id=cluster_id,
        store="local",
        brokers=1,
        services=(),
        ports=ports,
        secrets=Secrets.new(),
        tools=ServerTools(install_kafka(print), nothing, nothing, None, nothing, None),
    )
    kafka.format_storage(config, state, print)
    _change(state.part("kafka") / "1" / "server.properties", ports, second, advertised, dict(properties or {}))
    spec = kafka.broker(config, state, 1, heap=HEAP)
    with spec.log.open("ab") as log:
        process = subprocess.Popen(
            ends_with_this_process(spec.argv),
            env={**os.environ, **spec.env},
            cwd=spec.cwd,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    running = Broker(kafka.bootstrap(config), f"{LOOPBACK}:{ports['second']}", folder, process)
    try:
        until(lambda: _serves(spec, process), READY_S_MAX, "the broker to serve")
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                running.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _change(
    file: Path, ports: Mapping[str, int], second: str, advertised: int | None, properties: dict[str, str]
) -> None:
    settings = dict(line.split("=", 1) for line in file.read_text().splitlines())
    if second:
        settings["listeners"] += f",SECOND://{LOOPBACK}:{ports['second']}"
        settings["listener.security.protocol.map"] += f",SECOND:{second}"
        plain = f"PLAINTEXT://{LOOPBACK}:{ports[broker_name(1)]}"
        settings["advertised.listeners"] = f"{plain},SECOND://{LOOPBACK}:{advertised or ports['second']}"
    settings |= properties
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def _serves(spec: ProcessSpec, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, spec.log.read_text()[-3000:]
    assert spec.ready is not None
    try:
        return spec.ready()
    except OSError:
        return False
