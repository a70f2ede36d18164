"""Log lines: one object each on standard error, and no credentials in any of them."""

import json
from typing import Any

import pytest

from tests.runtime.runtime_scripts import run

pytestmark = pytest.mark.server  # each runs a process whose output it reads

CANARY = "canary-of-the-logs"
SCRIPT = """
import logging, sys
from headrace.runtime.logs import Action, configure_logs, get_log
from headrace.runtime.settings import LogFormat

configure_logs(LogFormat(sys.argv[1]), "info", "test")
canary = sys.argv[2]
log, library = get_log(), logging.getLogger("somebody.elses")
dsn = f"postgresql://user:{canary}@host:5432/db"
log.info(Action.READY, address=dsn)
log.info(Action.READY, address=f"postgresql://user:with@{canary}@host/db")
log.info(Action.READY, address=f"https://{canary}@host, s3://key:{canary}@bucket/x")
log.info(Action.READY, nested={"addresses": [dsn], "password": canary}, error=ValueError(dsn), pair=(dsn, 1))
log.info(Action.READY, kafka_password=canary, store_secret_key=canary, api_token=canary, Authorization=canary)
log.info(Action.READY, store_access_key=canary)
log.debug(Action.READY, note="not at this level")
try:
    raise ValueError(f"cannot reach {dsn}")
except ValueError as error:
    log.error(Action.HALTED, exc_info=error)
    library.error("cannot reach %s", dsn, exc_info=error)
library.warning("asking %(dsn)s", {"dsn": dsn})
library.info("not at this level")
log.info(Action.READY, number=7, share=0.5, nothing=None, yes=True, note="a line\\nand another")
"""


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    ended = run(SCRIPT, "json", CANARY)
    assert (ended.code, ended.out) == (0, "")
    return [json.loads(line) for line in ended.err.splitlines()]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_credentials_reach_the_log(log_format: str) -> None:
    ended = run(SCRIPT, log_format, CANARY)
    assert ended.code == 0
    assert "host:5432" in ended.err
    assert CANARY not in ended.err + ended.out


def test_every_line_is_an_object_that_says_what_when_and_who(lines: list[dict[str, Any]]) -> None:
    assert len(lines) == 10
    for line in lines:
        assert line["event"] in {"ready", "halted", "library"}
        assert line["process"] == "test"
        assert line["timestamp"].endswith("Z")
        assert line["level"] in {"info", "warning", "error"}


def test_what_libraries_say_is_marked_as_theirs(lines: list[dict[str, Any]]) -> None:
    assert [line["message"] for line in lines if line["event"] == "library"] == [
        "cannot reach postgresql://***@host:5432/db",
        "asking postgresql://***@host:5432/db",
    ]


def test_an_exception_is_in_its_line(lines: list[dict[str, Any]]) -> None:
    (halted,) = [line for line in lines if line["event"] == "halted"]
    assert "ValueError: cannot reach postgresql://***@host:5432/db" in halted["exception"]


def test_what_is_no_secret_is_kept_as_it_is(lines: list[dict[str, Any]]) -> None:
    kept = lines[-1]
    assert (kept["number"], kept["share"], kept["nothing"], kept["yes"]) == (7, 0.5, None, True)
    assert kept["note"] == "a line\nand another"


UNCONFIGURED = """
import sys
from headrace.runtime.logs import Action, get_log

dsn = f"postgresql://user:{sys.argv[1]}@host/db"
get_log().info(Action.WAITING, address=dsn)
try:
    raise ValueError(dsn)
except ValueError as error:
    get_log().error(Action.HALTED, exc_info=error)
print("data")
"""


def test_where_nobody_configured_it_standard_output_is_still_for_data() -> None:
    ended = run(UNCONFIGURED, CANARY)
    assert (ended.code, ended.out) == (0, "data\n")
    assert "waiting" in ended.err
    assert "ValueError: postgresql://***@host/db" in ended.err
    assert CANARY not in ended.err
