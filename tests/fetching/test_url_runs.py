"""`headrace ingest-urls`: what it prints, and a run that is killed and goes on."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fetching_world import picture
from file_server import FileServer, file_server

from batch.fetching.listing import LINE_BYTES_MAX, read_items
from batch.fetching.state import State
from runtime.errors import HeadraceError
from runtime.settings import Settings
from tests.conftest import environment_of, until

URLS = 400
MISSING, ENDLESS, SAME = 20, 4, 80  # of each


def test_the_client_is_loaded_when_it_is_used() -> None:
    code = (
        "import sys, headrace; assert 'batch' not in sys.modules; headrace.IngestClient; assert 'batch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_list_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b'# a list\n\n http://a/ \r\n{"url": "http://b/", "source": "s"}\n{broken\nhttp://\xff/')
    with path.open("rb") as stream:
        assert list(read_items(stream)) == [
            "http://a/", {"url": "http://b/", "source": "s"}, {}, "http://\ufffd/",
        ]  # fmt: skip
    path.write_bytes(b"h" * (3 * LINE_BYTES_MAX) + b"\nhttp://a/\n" + b"g" * LINE_BYTES_MAX + b"\nhttp://b/")
    with path.open("rb") as stream:
        assert list(read_items(stream)) == ["h" * LINE_BYTES_MAX, "http://a/", "g" * LINE_BYTES_MAX, "http://b/"]


def test_a_state_file_is_held_by_one_run_and_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "state"
    first = State(path)
    with pytest.raises(HeadraceError, match="another run"):
        State(path)
    first.close()
    State(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"torn')
    State(path).close()
    assert path.read_bytes() == whole
    path.write_bytes(b"a letter\n")
    with pytest.raises(HeadraceError, match="no state file"):
        State(path)
    assert path.read_bytes() == b"a letter\n"
    with pytest.raises(HeadraceError, match="directory"):
        State(tmp_path / "none" / "state")


def body_of(path: str) -> bytes | None:
    number = int(path[1:])
    if number < MISSING:
        return None
    if number < MISSING + ENDLESS:
        return bytes(200_000)
    return picture(1 if number < MISSING + ENDLESS + SAME else number)


class Run:
    """`headrace ingest-urls` as a process of its own."""

    def __init__(self, settings: Settings, folder: Path, *args: str) -> None:
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            **environment_of(settings),
            "HEADRACE_URL_NETWORKS": "127.0.0.0/8",
            "HEADRACE_URL_HOST_PAUSE_S": "0.005",
            "HEADRACE_URL_BYTES_MAX": "100000",
        }
        self._args = [str(folder / "urls"), "--state", str(folder / "state"), "--workers", "8", "--json", *args]

    def start(self, out: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "headrace", "ingest-urls", *self._args], env=self._env, text=True,
            stdout=out, stderr=out, cwd=tempfile.gettempdir(),
        )  # fmt: skip

    def end(self) -> tuple[int, list[dict[str, Any]], str]:
        with self.start(subprocess.PIPE) as process:
            out, talk = process.communicate(timeout=100)
        return process.returncode, [json.loads(line) for line in out.splitlines()], talk


def stored_paths(settings: Settings) -> set[str]:
    """The paths whose bytes the catalog has; of the same bytes, the first."""
    with psycopg.connect(settings.postgres_dsn.get_secret_value()) as connection:
        found = connection.execute("select attributes->>'url' from records").fetchall()
    return {"/" + row[0].rpartition("/")[2] for row in found}


def killed(run: Run, server: FileServer, answers: int) -> None:
    wanted = sum(server.answered.values()) + answers
    process = run.start()
    try:
        until(lambda: sum(server.answered.values()) >= wanted, 60, "URLs to be fetched")
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server(body_of) as serving:
        yield serving


@pytest.mark.stack
@pytest.mark.timeout(240)
def test_a_run_that_is_killed_twice_fetches_nothing_again_that_was_stored(
    settings: Settings, server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "urls").write_text("".join(f"{server.url(f'/{number}')}\n" for number in range(URLS)))
    run = Run(settings, tmp_path)
    before: dict[str, int] = {}
    for _ in range(2):
        killed(run, server, 120)
        before |= {path: server.answered[path] for path in stored_paths(settings)}
    assert 100 < len(before) < URLS - 100
    code, (*outcomes, summary), talk = run.end()
    assert {path: server.answered[path] for path in before} == before
    counts = Counter(outcome["status"] for outcome in outcomes)
    assert sorted(outcome["index"] for outcome in outcomes) == list(range(URLS))
    assert counts["failed"] == MISSING + ENDLESS
    assert counts["stored"] + counts["duplicate"] + counts["known"] == URLS - MISSING - ENDLESS
    assert counts["known"] >= len(before)
    assert {name: summary[name] for name in counts} == counts
    assert summary["failed_by_code"] == {"http_status": MISSING, "too_large": ENDLESS}
    assert (code, f"{URLS} URLs" in talk) == (1, True)
    with psycopg.connect(settings.postgres_dsn.get_secret_value()) as connection:
        rows = connection.execute(
            "select (select count(*) from records), (select count(*) from outbox), (select count(*) from sightings)"
        ).fetchone()
    distinct = URLS - MISSING - ENDLESS - SAME + 1
    # A commit that the kill came upon may have left its sighting: nothing of it is fetched again.
    assert rows == (distinct, distinct, URLS - MISSING - ENDLESS)
    again, (*outcomes, summary), _ = run.end()
    assert (again, summary["known"], summary["failed"]) == (1, URLS - MISSING - ENDLESS, MISSING + ENDLESS)


@pytest.mark.stack
def test_a_database_that_is_away_ends_the_command_with_3(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "urls").write_text("http://127.0.0.1:1/\n")
    away = settings.model_copy(
        update={"postgres_dsn": type(settings.postgres_dsn)("postgresql://headrace:canary@127.0.0.1:1/headrace")}
    )
    code, outcomes, talk = Run(away, tmp_path).end()
    assert (code, outcomes) == (3, [])
    assert "127.0.0.1:1" in talk
    assert "canary" not in talk
