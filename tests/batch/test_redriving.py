"""Dead letters on real servers: what a newer decoder understands is redriven, once, also through a kill."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import Producer

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas import codec
from headrace.schemas.codec import encode
from headrace.schemas.events import Cid
from headrace.schemas.registry import Registry
from tests.commands import CommandResult, clean_environment, run_in_process
from tests.processes import ServiceProcess, ends_with_this_process
from tests.waiting import until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

LETTERS = 1000
REPAIRED = LETTERS // 2
ARRIVES_S_MAX = 120.0
SCRIPT = Path(__file__).parent / "headrace_with_schemas.py"
AVRO = Path(codec.__file__).parent / "avro"


class NewWorker(ServiceProcess):
    """A worker that knows the schemas of a folder."""

    def __init__(self, settings: Settings, folder: Path, *, log: Path, **changes: object) -> None:
        self._folder = folder
        super().__init__(settings, "worker", "--kinds", "cids", log=log, **changes)

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as out:
            return subprocess.Popen(
                ends_with_this_process([sys.executable, "-P", SCRIPT, self._folder, *self._args]),
                env=self._env,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )


class Rows:
    """The catalog, asked directly."""

    def __init__(self, settings: Settings) -> None:
        self._connection = psycopg.connect(settings.postgres_dsn.get_secret_value(), autocommit=True)

    def one(self, sql: str, *values: Any) -> Any:
        row = self._connection.execute(sql, values).fetchone()  # type: ignore[call-overload]
        return row[0] if row else None

    def all(self, sql: str, *values: Any) -> list[Any]:
        return list(self._connection.execute(sql, values).fetchall())  # type: ignore[call-overload]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def rows(settings: Settings) -> Iterator[Rows]:
    opened = Rows(settings)
    yield opened
    opened.close()


@pytest.fixture
def ended() -> Iterator[list[ServiceProcess]]:
    """Processes that are ended whatever becomes of the test."""
    started: list[ServiceProcess] = []
    yield started
    for process in started:
        if process.process.poll() is None:
            process.kill()


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our schemas, and a second version of the CID's with its fields in another order."""
    folder = tmp_path_factory.mktemp("schemas") / "avro"
    shutil.copytree(AVRO, folder)
    schema = json.loads((AVRO / "cid.v1.avsc").read_text())
    schema["fields"] = [*schema["fields"][1:6], schema["fields"][0], schema["fields"][6]]
    (folder / "cid.v2.avsc").write_text(json.dumps(schema))
    return folder


def scanned(source: str, sequence: int, code: str) -> Cid:
    time_us = 1_790_000_000_000_000 + sequence
    return Cid(source_id=source, site="plant", captured_at_us=time_us, sequence=sequence, code=code)


def publish(settings: Settings, values: list[tuple[bytes, bytes]]) -> list[tuple[int, int]]:
    places: dict[int, tuple[int, int]] = {}
    producer = Producer(client_config(settings, acks="all", enable_idempotence=True, linger_ms=5))
    for number, (key, value) in enumerate(values):
        producer.produce(
            "edge.cids.v1",
            value,
            key,
            on_delivery=lambda error, message, number=number: places.__setitem__(
                number, (message.partition(), message.offset())
            ),
        )
    assert producer.flush(30) == 0
    return [places[number] for number in range(len(values))]


def command(settings: Settings, folder: Path, *args: str) -> "subprocess.Popen[str]":
    # -P: the script's folder has a package named like a module of the standard library.
    return subprocess.Popen(
        [sys.executable, "-P", str(SCRIPT), str(folder), *args],
        env=clean_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(settings: Settings, folder: Path | None, *args: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """Run a command, in this process where it needs no schemas of another folder."""
    if folder is None:
        result = run_in_process(settings, *args)
    else:
        process = command(settings, folder, *args)
        out, err = process.communicate(timeout=120)
        result = CommandResult(process.returncode, out, err)
    assert result.code == code, result.err
    return result.json, result.err


def test_half_of_a_thousand_letters_come_back_once_also_through_a_kill(
    settings: Settings, rows: Rows, newer: Path, tmp_path: Path, ended: list[ServiceProcess]
) -> None:
    tag = uuid4().hex[:8]
    registry = Registry(newer)
    values = []
    for number in range(LETTERS):
        source = f"{tag}-{number % 5}"
        scan = scanned(source, number, f"C-{tag}-{number}")
        # Every other one is of a version that nobody has published yet.
        value = encode(scan, registry) if number % 2 == 0 else b"\0\0\0\0\x07" + encode(scan, registry)[5:]
        values.append((source.encode(), value))
    places = publish(settings, values)
    old = ServiceProcess(
        settings, "worker", "--kinds", "cids", log=tmp_path / "old.log", dead_letter_quota=1_000_000
    ).wait_ready()
    ended.append(old)
    mine = "select count(*) from dead_letters where key = any(%s)"
    keys = [f"{tag}-{number}".encode() for number in range(5)]
    until(lambda: rows.one(mine, keys) == LETTERS, ARRIVES_S_MAX, "the dead letters")
    assert old.stop() == 0

    where = ("--where", "topic=edge.cids.v1,code=unknown_schema")
    before, output = run(settings, None, "dlq", "redrive", "--dry-run", "--json", *where)
    assert (before["looked_at"], before["accepted"]) == (LETTERS, 0)
    assert "nothing to redrive" in output
    planned, output = run(settings, newer, "dlq", "redrive", "--dry-run", "--json", *where)
    assert (planned["accepted"], planned["refused"]) == (REPAIRED, {"unknown_schema": REPAIRED})
    assert f"{REPAIRED} of {LETTERS} would be ingested" in output
    assert rows.one("select count(*) from redrives") == 0

    new = NewWorker(settings, newer, log=tmp_path / "new.log", dead_letter_quota=1_000_000).wait_ready()
    ended.append(new)
    killed = command(settings, newer, "dlq", "redrive", "--rate", "60", *where)
    # A group of a hundred takes 1.7 s to publish: some are out and noted, some are claimed, none of these is noted.
    underway = "select count(published_at) >= 100 and count(*) > count(published_at) from redrives"
    until(lambda: rows.one(underway), 60, "the middle of a redrive")
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=30)
    claimed = rows.one("select count(*) from redrives where published_at is null")
    assert claimed > 0, "the kill came between a claim and its note"

    rest, output = run(settings, newer, "dlq", "redrive", "--json", *where)
    assert 0 < rest["published"] < REPAIRED
    ingested = "select count(*) from records where code like %s"
    until(lambda: rows.one(ingested, f"C-{tag}-%") == REPAIRED, ARRIVES_S_MAX, "the redriven scans")
    until(lambda: rows.one("select count(*) from redrives where ended_at is null") == 0, ARRIVES_S_MAX, "all ends")

    seen = rows.all('select partition, "offset" from sightings where source_id like %s', f"{tag}-%")
    assert sorted(seen) == sorted(places[::2]), "each where its source published it, and once"
    announced = "select count(*) from outbox where record_id in (select record_id from records where code like %s)"
    assert rows.one(announced, f"C-{tag}-%") == REPAIRED
    closed = (
        "select count(*) from dead_letters where key = any(%s) and record_id is not null and redriven_at is not null"
    )
    assert rows.one(closed, keys) == REPAIRED
    assert rows.one(mine, keys) == LETTERS
    assert rows.one("select max(attempt) from redrives") == 1

    again, output = run(settings, newer, "dlq", "redrive", "--json", *where)
    assert (again["accepted"], again["published"], again["refused"]) == (0, 0, {"unknown_schema": REPAIRED})
    assert "nothing to redrive" in output
    listed, _ = run(settings, newer, "dlq", "ls", "--json", *where)
    assert listed["counts"] == {"ingested": {"unknown_schema": REPAIRED}, "waiting": {"unknown_schema": REPAIRED}}
    assert new.stop() == 0


def test_a_letter_that_is_refused_again_stays_one_letter_with_a_history_and_not_for_ever(
    settings: Settings, rows: Rows, newer: Path, tmp_path: Path, ended: list[ServiceProcess]
) -> None:
    tag = uuid4().hex[:8]
    scan = scanned(tag, 1, f"C-{tag}")
    publish(settings, [(tag.encode(), encode(scan, Registry(newer)))])
    changed = settings.model_copy(update={"redrive_attempts_max": 2})
    old = ServiceProcess(settings, "worker", "--kinds", "cids", log=tmp_path / "old.log").wait_ready()
    ended.append(old)
    refusals = "select count(*) from redrives where ended_at is not null"
    until(lambda: rows.one("select count(*) from dead_letters where key = %s", tag.encode()), ARRIVES_S_MAX, "it")
    for attempt in (1, 2):
        # The command knows the schema, the worker does not.
        done, _ = run(changed, newer, "dlq", "redrive", "--json")
        assert done["published"] == 1
        until(lambda attempt=attempt: rows.one(refusals) == attempt, ARRIVES_S_MAX, "the refusal")
    done, output = run(changed, newer, "dlq", "redrive", "--json")
    assert (done["published"], done["exhausted"]) == (0, 1)
    assert "HEADRACE_REDRIVE_ATTEMPTS_MAX" in output
    letter = rows.one("select dead_letter_id from dead_letters where key = %s", tag.encode())
    shown, _ = run(settings, newer, "dlq", "show", str(letter)[:13], "--json", "-o", str(tmp_path / "value"))
    assert shown["state"] == "refused_again"
    assert [(item["attempt"], item["code"]) for item in shown["history"]] == [
        (1, "unknown_schema"),
        (2, "unknown_schema"),
    ]
    assert (tmp_path / "value").read_bytes() == encode(scan, Registry(newer))
    assert rows.one("select count(*) from dead_letters where key = %s", tag.encode()) == 1
    assert old.stop() == 0


def test_a_wrong_filter_names_the_allowed_ones(settings: Settings) -> None:
    _, output = run(settings, None, "dlq", "redrive", "--where", "colour=blue", code=2)
    assert "id, code, source, site, topic, since, until, state" in output
    _, output = run(settings, None, "dlq", "ls", "--where", "code=blue", code=2)
    assert "unknown_schema" in output


def test_a_redrive_of_nothing_says_so(settings: Settings) -> None:
    done, output = run(settings, None, "dlq", "redrive", "--json")
    assert (done["looked_at"], done["published"]) == (0, 0)
    assert "no dead letter waits" in output
