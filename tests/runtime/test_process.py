"""How a process ends: drained, by itself when it does not drain, and always with a code that says why."""

import signal

import pytest

from headrace.runtime.errors import Exit, HeadraceError, unreachable
from tests.runtime.runtime_scripts import Ended, run, start, wait

pytestmark = pytest.mark.server

SCRIPT = """
import asyncio, os, signal, sys, time
from headrace.runtime import process
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import configure_logs
from headrace.runtime.settings import LogFormat

process.STOP_S_MAX = 5.0 if sys.argv[1].startswith('waits') else 0.5
configure_logs(LogFormat.JSON, "info", "test")

async def drains(stop):
    print("running", flush=True)
    await stop.wait()
    await asyncio.sleep(0.05)
    return Exit.OK

class Signals:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM):
        kill(process, number)

async def is_signalled_again_at_its_end(stop):
    process.deleted_by_the_interpreter = Signals()
    return await drains(stop)

async def ignores_the_signal(stop):
    print("running", flush=True)
    await asyncio.sleep(60)

async def blocks_the_loop(stop):
    print("running", flush=True)
    await stop.wait()
    time.sleep(60)

async def hangs_in_a_thread(stop):
    print("running", flush=True)
    await stop.wait()
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, time.sleep, 60)
    return Exit.OK

async def says_what_is_wrong(stop):
    raise HeadraceError("store_unreachable", "it is away", where="s3://b", hint="start it", exit_code=Exit.UNREACHABLE)

async def breaks(stop):
    raise RuntimeError("cannot use postgresql://user:a-canary@host/db")

async def waits_for_kafka(stop):
    from headrace.runtime.kafka import wait_for_kafka
    from headrace.runtime.settings import load_settings
    print("running", flush=True)
    settings = load_settings(_env_file=None, kafka_bootstrap="127.0.0.1:1", start_wait_s_max=60)
    await wait_for_kafka(settings, stop=stop)

async def returns(stop):
    return Exit.TRANSIENT

sys.exit(process.run(globals()[sys.argv[1]]))
"""


def signalled(main: str, number: signal.Signals = signal.SIGTERM, times: int = 1) -> Ended:
    process = start(SCRIPT, main)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    for _ in range(times):
        process.send_signal(number)
    return wait(process)


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 5)])
def test_a_signal_lets_it_drain_and_end_well(number: signal.Signals, times: int) -> None:
    ended = signalled("drains", number, times)
    assert ended.code == Exit.OK
    assert ended.err.count('"draining"') == 1
    assert '"stopped"' in ended.err
    assert "Traceback" not in ended.err


def test_a_signal_while_the_interpreter_ends_does_not_replace_the_exit_code() -> None:
    assert signalled("is_signalled_again_at_its_end").code == Exit.OK


def test_a_process_that_still_waits_for_a_service_ends_well() -> None:
    ended = signalled("waits_for_kafka")
    assert ended.code == Exit.OK
    assert '"stopped"' in ended.err
    assert "stop_forced" not in ended.err


@pytest.mark.parametrize("main", ["ignores_the_signal", "blocks_the_loop", "hangs_in_a_thread"])
def test_what_does_not_drain_in_time_ends_by_itself_and_shows_where_it_stood(main: str) -> None:
    ended = signalled(main)
    assert ended.code == Exit.STUCK
    assert '"stop_forced"' in ended.err
    assert "most recent call first" in ended.err


def test_an_error_for_a_person_is_a_sentence_without_traceback() -> None:
    ended = run(SCRIPT, "says_what_is_wrong")
    assert ended.code == Exit.UNREACHABLE
    assert ended.err == "store_unreachable: it is away (s3://b)\nhint: start it\n"


def test_a_fault_that_nobody_foresaw_is_in_the_log_without_its_secrets() -> None:
    ended = run(SCRIPT, "breaks")
    assert ended.code == Exit.BROKEN
    assert "RuntimeError: cannot use postgresql://***@host/db" in ended.err
    assert "a-canary" not in ended.err


def test_what_main_returns_is_the_exit_code() -> None:
    assert run(SCRIPT, "returns").code == Exit.TRANSIENT


def test_the_exit_codes_are_a_contract() -> None:
    assert {exit_code.name: exit_code.value for exit_code in Exit} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 2,
        "UNREACHABLE": 3,
        "STUCK": 70,
        "BROKEN": 71,
        "TRANSIENT": 75,
        "REVERTED": 77,
        "QUOTA": 78,
        "CRASHED": 79,
    }


def test_an_error_says_what_where_and_what_to_do_next() -> None:
    error = unreachable("kafka", "10.0.0.1:9092", "connection refused", "start it")
    assert str(error) == "kafka_unreachable: kafka does not answer: connection refused (10.0.0.1:9092)\nhint: start it"
    assert error.exit_code == Exit.UNREACHABLE
    assert str(HeadraceError("code", "what")) == "code: what"
