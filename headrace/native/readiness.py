"""Asks each process of a running stack whether it serves, as `headrace status` shows it."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from headrace.native.config import LOOPBACK, StackConfig, read_config
from headrace.native.info import ProcessStatus, StackStatus
from headrace.native.layout import StateDir
from headrace.native.process import ReadyCheck
from headrace.native.stack import status
from headrace.native.state_file import ProcessState
from headrace.native.supervisor import process_specs

ANSWER_S_MAX = 3.0
_ASKED = frozenset({ProcessState.STARTING, ProcessState.READY})
_STATES = {"degraded": ProcessState.DEGRADED, "ready": ProcessState.READY}


def asked_status(state_dir: Path) -> StackStatus:
    """Return the state of the stack's processes by their own answers, within about `ANSWER_S_MAX` seconds.

    A process of the service answers at /readyz, a server by its own protocol. One that runs and does not serve is
    NOT_READY; `missing` names what it lacks.
    """
    current = status(state_dir)
    state = StateDir.at(state_dir)
    config = read_config(state)
    if not current.running or config is None or config.tools is None:
        return current
    checks = {spec.name: spec.ready for spec in process_specs(config, state)}
    with ThreadPoolExecutor(len(current.processes) or 1) as pool:
        processes = pool.map(lambda process: _asked(process, config, checks.get(process.name)), current.processes)
        return replace(current, processes=tuple(processes))


def _asked(process: ProcessStatus, config: StackConfig, check: ReadyCheck | None) -> ProcessStatus:
    if process.state not in _ASKED:
        return process
    if process.name in {service.name for service in config.services}:
        answer, missing = answer_of(config.ports[process.name])
    else:
        answer, missing = _server_answer(check)
    if process.state is ProcessState.STARTING:
        return replace(process, missing=missing)
    return replace(process, state=_STATES.get(answer, ProcessState.NOT_READY), missing=missing)


def answer_of(port: int) -> tuple[str, Mapping[str, str]]:
    """Return the state that a process reports at /readyz, and each need that does not answer, with its fault."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=ANSWER_S_MAX) as response:
            return _parsed(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return _parsed(error.read())
    except (OSError, ValueError) as error:
        return "", {"process": f"no answer at /readyz: {getattr(error, 'reason', None) or error}"}


def _parsed(body: bytes) -> tuple[str, Mapping[str, str]]:
    content = json.loads(body)
    return content["state"], {name: fault for name, fault in content["needs"].items() if fault != "ok"}


def _server_answer(check: ReadyCheck | None) -> tuple[str, Mapping[str, str]]:
    with suppress(OSError):
        if check is None or check():
            return "ready", {}
    return "", {"process": "the server does not answer"}
