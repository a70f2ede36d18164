"""`headrace ingest-urls`: what it prints, and a run that is killed and goes on."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest

from headrace.batch.fetch.errors import UrlRefusedError
from headrace.batch.fetch.items import LINE_BYTES_MAX, read_items
from headrace.batch.fetch.outcome import FetchResult
from headrace.batch.fetch.state import FetchState
from headrace.batch.fetch.url import parse_url
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.store.requests.ingest_status import IngestStatus as Landing
from headrace.store.requests.ingest_status import MessageRef
from tests.batch.fetch.file_server import FileServer, file_server
from tests.batch.fetch.web_servers import picture
from tests.processes import environment_of
from tests.waiting import until

URLS = 400
MISSING, ENDLESS, SAME = 20, 4, 80  # of each


@pytest.mark.server
def test_the_client_is_loaded_when_it_is_used() -> None:
    code = """
import sys, headrace
assert "headrace.batch" not in sys.modules
headrace.IngestClient
assert "headrace.batch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_list_is_read_line_by_line() -> None:
    list_ = BytesIO(
        b'\xef\xbb\xbfhttp://first/\n# a list\n\n http://a/ \r\n{"url": "http://b/", "source": "s"}\n{broken\nhttp://\xff/'
    )
    assert list(read_items(list_)) == [
        "http://first/",
        "http://a/",
        {"url": "http://b/", "source": "s"},
        {},
        "http://\ufffd/",
    ]


@pytest.mark.parametrize("huge", [b"h" * 1_000_000, b"http://a/" + b" " * 1_000_000, b" " * 1_000_000 + b"http://a/"])
def test_a_line_that_is_too_long_is_one_that_fails_and_the_next_is_read(huge: bytes) -> None:
    first, second = read_items(BytesIO(huge + b"\nhttp://b/\n"))
    assert isinstance(first, str)
    assert len(first) <= LINE_BYTES_MAX + 1
    with pytest.raises(UrlRefusedError):
        parse_url(first)
    assert second == "http://b/"
    assert list(read_items(BytesIO(b'{"url": "' + huge + b'"}\nhttp://b/\n'))) == [{}, "http://b/"]
    assert list(read_items(BytesIO(b"#" + huge + b"\nhttp://b/\n"))) == ["http://b/"]


def test_a_state_file_is_held_by_one_run_and_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "state"
    first = FetchState(path)
    with pytest.raises(HeadraceError, match="another run"):
        FetchState(path)
    first.close()
    FetchState(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"torn')
    FetchState(path).close()
    assert path.read_bytes() == whole
    for other in (b"a letter\n", bytes(1_000_000)):
        path.write_bytes(other)
        with pytest.raises(HeadraceError, match="not a state file"):
            FetchState(path)
        assert path.read_bytes() == other
    os.mkfifo(tmp_path / "fifo")
    for unusable, why in (("none/state", "directory"), ("", "directory"), ("fifo", "seek")):
        with pytest.raises(HeadraceError, match=why):
            FetchState(tmp_path / unusable)


def result_of(number: int) -> FetchResult:
    return FetchResult(
        id=str(UUID(int=number)),
        s3_key=f"key-{number}",
        checksum="00",
        duplicate=False,
        url=f"http://a/{number}",
        license=None,
        source="s",
        media_type="image/jpeg",
        size_bytes=number,
    )


class AllLanded:
    """A catalog that has every second sighting."""

    async def outcomes(self, places: Sequence[MessageRef]) -> list[Landing]:
        return [Landing(ingested=place.offset % 2 == 0, code=None, reason=None) for place in places]


async def confirmed(path: Path) -> FetchState:
    state = FetchState(path)
    try:
        await state.confirm(AllLanded())  # type: ignore[arg-type]
    except BaseException:
        state.close()
        raise
    return state


async def test_a_state_file_knows_what_the_catalog_has(tmp_path: Path) -> None:
    path = tmp_path / "state"
    urls = [parse_url(f"http://a/{number}") for number in range(2500)]
    with closing(FetchState(path)) as state:
        for number, url in enumerate(urls):
            at = state.write(url, number, result_of(number))
            assert state.result_of(url) is None
            if number == 7:
                state.mark_committed(url, at)
                assert state.result_of(url) == result_of(7)
    path.write_bytes(path.read_bytes() + b'{"url": "torn')
    with closing(await confirmed(path)) as state:
        for number, url in enumerate(urls):
            assert state.result_of(url) == (result_of(number) if number % 2 == 0 else None)
        state.write(urls[1], 4000, result_of(4000))
    with closing(await confirmed(path)) as state:
        assert state.result_of(urls[1]) == result_of(4000)
        assert state.result_of(urls[2]) == result_of(2)


@pytest.mark.parametrize(
    "change",
    [
        {"url": "no hex"},
        {"url": 7},
        {"offset": -1},
        {"offset": 1 << 63},
        {"offset": "7"},
        {"result": {}},
        {"result": [1]},
        {"result": {**result_of(1).as_dict(), "id": "no id"}},
        {"result": {**result_of(1).as_dict(), "id": 7}},
        {"result": {**result_of(1).as_dict(), "more": 7}},
    ],
)
async def test_a_state_file_with_a_line_that_is_not_ours_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "state"
    with closing(FetchState(path)) as state:
        state.write(parse_url("http://a/1"), 1, result_of(1))
    head, line = path.read_bytes().splitlines()
    path.write_bytes(head + b"\n" + json.dumps(json.loads(line) | change).encode() + b"\n")
    before = path.read_bytes()
    with pytest.raises(HeadraceError, match="did not write"):
        await confirmed(path)
    assert path.read_bytes() == before


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from headrace.batch.fetch.outcome import FetchResult
from headrace.batch.fetch.state import FetchState
from headrace.batch.fetch.url import parse_url
from headrace.runtime.errors import HeadraceError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
state, url = FetchState(Path(sys.argv[1])), parse_url("http://a/1")
result = FetchResult(id="0" * 32, s3_key="k", checksum="c", duplicate=False, url="u" * 300, license=None, source="s",
                     media_type="m", size_bytes=1)
state.write(url, 2, result)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, -1))
for _ in range(2):
    try:
        state.write(parse_url("http://a/2"), 4, result)
        sys.exit("it was written")
    except HeadraceError as error:
        assert "cannot write" in str(error), error
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
state.mark_committed(url, state.write(url, 6, result))
assert state.result_of(url) == result
state.close()
"""


def test_a_state_file_without_room_says_so_and_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "state"
    subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], check=True)
    assert len(path.read_bytes().splitlines()) == 3
    with closing(asyncio.run(confirmed(path))) as state:
        assert state.result_of(parse_url("http://a/1")) is not None
        assert state.result_of(parse_url("http://a/2")) is None


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
            [sys.executable, "-m", "headrace", "ingest-urls", *self._args],
            env=self._env,
            text=True,
            stdout=out,
            stderr=out,
            cwd=tempfile.gettempdir(),
        )

    def end(self) -> tuple[int, list[dict[str, Any]], str]:
        with self.start(subprocess.PIPE) as process:
            out, talk = process.communicate(timeout=100)
        return process.returncode, [json.loads(line) for line in out.splitlines()], talk


def stored_paths(settings: Settings) -> set[str]:
    """The paths whose bytes the catalog has; of the same bytes, the first."""
    with psycopg.connect(settings.postgres_dsn.get_secret_value()) as connection:
        result = connection.execute("select attributes->>'url' from records").fetchall()
    return {"/" + row[0].rpartition("/")[2] for row in result}


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


@pytest.mark.stack
@pytest.mark.timeout(240)
def test_a_database_that_takes_us_no_longer_ends_the_run_without_a_traceback(
    settings: Settings, server: FileServer, tmp_path: Path
) -> None:
    numbers = range(URLS - 200, URLS)
    (tmp_path / "urls").write_text("".join(f"{server.url(f'/{number}')}\n" for number in numbers))
    place = urlsplit(settings.postgres_dsn.get_secret_value())
    name = place.path[1:]
    other = place._replace(path="/postgres").geturl()
    run = Run(settings, tmp_path)
    with run.start(subprocess.PIPE) as process, psycopg.connect(other, autocommit=True) as admin:
        until(lambda: len(stored_paths(settings)) > 20, 60, "some to be stored")
        admin.execute(f'alter database "{name}" allow_connections false')
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        _, talk = process.communicate(timeout=120)
        admin.execute(f'alter database "{name}" allow_connections true')
    assert (process.returncode, "catalog_failed" in talk, "Traceback" in talk) == (1, True, False)
    _, (*_, summary), _ = run.end()
    assert (summary["urls"], summary["failed"]) == (len(numbers), 0)
    assert summary["known"] > 20


@pytest.mark.stack
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_run_that_is_asked_to_end_says_nothing_strange_and_goes_on(
    settings: Settings, server: FileServer, tmp_path: Path, name: str
) -> None:
    numbers = range(URLS, URLS + 400)  # that it does not end before it is asked to
    (tmp_path / "urls").write_text("".join(f"{server.url(f'/{number}')}\n" for number in numbers))
    run = Run(settings, tmp_path)
    with run.start(subprocess.PIPE) as process:
        until(lambda: len(stored_paths(settings)) > 20, 60, "some to be stored")
        process.send_signal(signal.Signals[name])
        out, talk = process.communicate(timeout=60)
    assert process.returncode in {130, -signal.SIGTERM}
    assert "Traceback" not in talk
    ended = [json.loads(line) for line in out.splitlines()]
    assert 0 < len(ended) < len(numbers)
    assert all("status" in item for item in ended)
    _, (*_, summary), _ = run.end()
    assert summary["stored"] + summary["duplicate"] + summary["known"] == len(numbers)
    assert summary["known"] >= sum(item["status"] in {"stored", "duplicate"} for item in ended)


@pytest.mark.stack
def test_what_lets_somebody_in_is_nowhere_afterwards(settings: Settings, server: FileServer, tmp_path: Path) -> None:
    canary = "canary-pass-11"
    place = server.url("").removeprefix("http://")
    (tmp_path / "urls").write_text(
        f"http://user:{canary}@{place}/200\n{server.url('/201')}?access_token={canary}\n"
        f'{{"url": "{server.url("/202")}?X-Amz-Signature={canary}#{canary}"}}\n{{"url": "{canary}", "source": 7}}\n'
        f"ftp://user:{canary}@{place}/203\nhttp://{canary}@10.0.0.1/\n"
    )
    server.body_of = lambda path: body_of(path.partition("?")[0])
    code, (*outcomes, _), talk = Run(settings, tmp_path).end()
    assert (code, sorted(outcome["status"] for outcome in outcomes)) == (1, ["failed"] * 4 + ["stored"] * 2)
    with psycopg.connect(settings.postgres_dsn.get_secret_value()) as connection:
        rows = connection.execute("select r::text, o::text from records r join outbox o using (record_id)").fetchall()
    assert len(rows) == 2
    assert canary not in f"{outcomes}{talk}{rows}{(tmp_path / 'state').read_bytes()!r}"
    assert any(canary in path for path in server.answered)  # it went where it was meant to
