"""A list of URLs at full size: killed twice, gone on with, and announced.

The list is on a server of the proof's own: 5 % are not there, 2 % are slow, 1 % have no end, and 20 % lead to the same
bytes. A run is killed when the catalog has a part of the list and the process is still at work. A relay runs beside it,
is killed with the second one, and whatever it announces is read by a `read_committed` consumer.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import psycopg

from headrace.initialize import initialize
from infra.native import temporary_stack
from runtime.settings import Settings
from schemas.digest import sha256_hex
from tests.conftest import ServiceProcess, environment_of, settings_of, until
from tests.fetching.announcements import Ear
from tests.fetching.fetching_world import picture
from tests.fetching.file_server import FileServer, Handler

COUNT = 10_000

_WORKERS = 32
_BYTES_MAX = 1_000_000
_SLOW_S = 0.5
_KILLED_AT = (0.25, 0.5)  # of the list, as the catalog has it
_WAIT_S_MAX = 600


def is_missing(number: int) -> bool:
    return number % 20 == 0


def is_slow(number: int) -> bool:
    return number % 50 == 3


def is_endless(number: int) -> bool:
    return number % 100 == 7


def is_same(number: int) -> bool:
    return number % 5 == 1


def body_of(path: str) -> bytes | None:
    number = int(path[1:])
    return None if is_missing(number) else picture(1 if is_same(number) else number)


class HostileHandler(Handler):
    """Takes its time over some paths, and never ends with others."""

    def do_GET(self) -> None:  # noqa: N802 - the standard library's name
        number = int(self.path[1:]) if self.path != "/robots.txt" else None
        if number is not None and is_slow(number):
            time.sleep(_SLOW_S)
        if number is None or not is_endless(number):
            super().do_GET()
            return
        self.count()
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(bytes(65_536))


def prove(count: int, say: Callable[[str], None]) -> list[str]:
    """Return what did not hold of a list of `count` URLs."""
    with temporary_stack("minio") as stack, serving() as server, tempfile.TemporaryDirectory() as place:
        settings = settings_of(stack)
        initialize(settings)
        return Proof(settings, server, Path(place), count, say).run()


@contextmanager
def serving() -> Iterator[FileServer]:
    with FileServer(body_of, HostileHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Proof:
    """One list, and what did not hold of it."""

    def __init__(
        self, settings: Settings, server: FileServer, place: Path, count: int, say: Callable[[str], None]
    ) -> None:
        self.wrong: list[str] = []
        self._settings = settings
        self._ear = Ear(settings, ["ingested.frames.v1"])
        self._server = server
        self._place = place
        self._count = count
        self._say = say
        self._failures = {
            "http_status": sum(map(is_missing, range(count))),
            "too_large": sum(map(is_endless, range(count))),
        }
        self._good = count - sum(self._failures.values())
        self._distinct = self._good - sum(map(is_same, range(count))) + 1
        urls = [server.url(f"/{number}") for number in range(count)]
        self._paths = {_key(url): f"/{number}" for number, url in enumerate(urls)}
        (place / "urls").write_text("".join(f"{url}\n" for url in urls))

    def run(self) -> list[str]:
        relay = ServiceProcess(self._settings, "relay", log=self._place / "relay.log").wait_ready()
        try:
            before: dict[str, int] = {}
            for number, part in enumerate(_KILLED_AT):
                self._killed(int(self._distinct * part), relay if number else None)
                before |= {path: self._server.answered[path] for path in self._stored()}
                self._say(f"killed: {len(before)} of {self._good} good URLs are stored")
            self._check(0 < len(before) < self._good, "both kills came in the middle")
            self._whole(before)
            self._again()
            self._check(not self._failed_in_catalog(), "nothing of what failed is in the catalog")
            until(lambda: not self._rows("select 1 from outbox where published_at is null"), _WAIT_S_MAX, "the relay")
            self._announced()
        finally:
            relay.stop()
        return self.wrong

    def _killed(self, records: int, relay: ServiceProcess | None) -> None:
        """Kill a run once the catalog has so many records, and the relay with it."""
        process = self._start(subprocess.DEVNULL)
        try:
            until(lambda: process.poll() is not None or self._records() >= records, _WAIT_S_MAX, f"{records} records")
            self._check(process.poll() is None, f"the run was at work when the catalog had {records} records")
        finally:
            process.kill()
            code = process.wait()
        self._check(code == -signal.SIGKILL, "it was the kill that ended it")
        if relay is not None:
            relay.kill()
            relay.restart()
        # What it had asked PostgreSQL for before it ended may still be carried out.
        sessions = "select 1 from pg_stat_activity where application_name = 'headrace ingest-urls'"
        until(lambda: not self._rows(sessions), _WAIT_S_MAX, "its sessions to end")

    def _whole(self, before: dict[str, int]) -> None:
        """Run to the end, and add up."""
        asked, began = sum(self._server.answered.values()), time.monotonic()
        code, outcomes, summary = self._finished()
        took_s = time.monotonic() - began
        fetched = sum(self._server.answered.values()) - asked
        self._say(f"the third run: {summary}")
        self._say(
            f"{fetched} URLs fetched in {took_s:.1f} s, its start and end included: {fetched / took_s:.0f} a second"
        )
        again = sum(self._server.answered[path] != times for path, times in before.items())
        self._check(again == 0, f"of {len(before)} that were stored before, {again} were fetched again")
        self._check(code == 1, f"it ends with {code}, as some failed")
        counts = Counter(one["status"] for one in outcomes)
        self._check(sorted(one["index"] for one in outcomes) == [*range(self._count)], "each URL has one outcome")
        self._check(all(summary[status] == counts[status] for status in ("stored", "duplicate", "known", "failed")),
                    "the summary is the sum of the outcomes")  # fmt: skip
        self._check(counts["failed"] == self._count - self._good and summary["failed_by_code"] == self._failures,
                    f"failed: {summary['failed_by_code']}")  # fmt: skip
        self._check(counts["known"] == len(before), f"{counts['known']} were known, {len(before)} stored before")
        self._check(counts["stored"] + counts["duplicate"] + counts["known"] == self._good,
                    f"{counts['stored']} stored + {counts['duplicate']} duplicates + {counts['known']} known "
                    f"= {self._good} good URLs")  # fmt: skip
        tables = self._rows(
            "select (select count(*) from records), (select count(*) from blobs), (select count(*) from outbox), "
            "(select count(*) from sightings)"
        )[0]
        self._check(tables == (self._distinct, self._distinct, self._distinct, self._good),
                    f"records, blobs, outbox, sightings: {tables}")  # fmt: skip

    def _again(self) -> None:
        """Run once more: only what failed is asked for."""
        asked = Counter(self._server.answered)
        _, _, summary = self._finished()
        asked_again = {path for path, times in self._server.answered.items() if times != asked[path]} - {"/robots.txt"}
        failing = {f"/{number}" for number in range(self._count) if is_missing(number) or is_endless(number)}
        self._check(asked_again == failing and summary["known"] == self._good,
                    f"a fourth run asks for {len(asked_again)} that failed, and knows {summary['known']}")  # fmt: skip

    def _announced(self) -> None:
        """Read everything that the relay ever said."""
        wanted = [str(row[0]) for row in self._rows("select record_id from records")]
        said = [event.record_id for _, event in self._ear.heard()]
        self._check(sorted(said) == sorted(wanted),
                    f"{len(wanted)} records, {len(said)} announcements, {len(set(said))} of them distinct")  # fmt: skip

    def _stored(self) -> set[str]:
        """The paths of which the catalog has a sighting, where the state file says that it would stand."""
        offsets = {row[0] for row in self._rows('select "offset" from sightings')}
        lines = (self._place / "state").read_bytes().split(b"\n")[1:-1]
        noted = [orjson.loads(line) for line in lines]
        found = {self._paths[one["url"]] for one in noted if one["offset"] in offsets}
        self._check(len(offsets) == len(found), f"{len(offsets)} sightings are of {len(found)} URLs")
        return found

    def _failed_in_catalog(self) -> list[str]:
        paths = ["/" + row[0].rpartition("/")[2] for row in self._rows("select attributes->>'url' from records")]
        return [path for path in paths if is_missing(int(path[1:])) or is_endless(int(path[1:]))]

    def _records(self) -> int:
        return int(self._rows("select count(*) from records")[0][0])

    def _finished(self) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
        with (self._place / "out").open("w+b") as out:
            code = self._start(out.fileno()).wait(_WAIT_S_MAX)
            out.seek(0)
            *outcomes, summary = map(orjson.loads, out)
        return code, outcomes, summary

    def _start(self, out: int) -> "subprocess.Popen[bytes]":
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            **environment_of(self._settings),
            "HEADRACE_URL_NETWORKS": "127.0.0.0/8",
            "HEADRACE_URL_HOST_PAUSE_S": "0",
            "HEADRACE_URL_HOST_REQUESTS_MAX": str(_WORKERS),
            "HEADRACE_URL_BYTES_MAX": str(_BYTES_MAX),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "headrace", "ingest-urls", "urls", "--state", "state", "--workers", str(_WORKERS),
             "--json"],
            env=environment, stdout=out, stderr=subprocess.DEVNULL, cwd=self._place,
        )  # fmt: skip

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._settings.postgres_dsn.get_secret_value()) as connection:
            return connection.execute(query).fetchall()  # type: ignore[call-overload, no-any-return]

    def _check(self, holds: bool, what: str) -> None:
        self._say(f"{'holds' if holds else 'DOES NOT HOLD'}: {what}")
        if not holds:
            self.wrong.append(what)


def _key(url: str) -> str:
    """How a state file names a URL."""
    return sha256_hex(url.encode())[:32]
