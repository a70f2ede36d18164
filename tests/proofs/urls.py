"""A long list of URLs, some missing, slow, endless or the same: killed twice, and everything adds up."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from headrace.initialize import initialize
from headrace.native import temporary_stack
from tests.batch.fetch.file_server import FileServer, Handler, file_server
from tests.batch.fetch.web_servers import picture
from tests.proofs.commands import Commands, announced, connected
from tests.servers import settings_of

COUNT = 10_000
KILLED_AT = (0.25, 0.5)
"""The parts of the list that the server has answered when a run is killed."""
_SLOW_S = 0.5
_WORKERS = 32
_QUICK = {
    "HEADRACE_URL_NETWORKS": "127.0.0.0/8",
    "HEADRACE_URL_HOST_PAUSE_S": "0",  # the list has one host, which is ours
    "HEADRACE_URL_HOST_REQUESTS_MAX": str(_WORKERS),
    "HEADRACE_URL_BYTES_MAX": "1000000",  # which ends what is endless
}


class _Wild(Handler):
    """One in a hundred never ends, and two are slow."""

    def do_GET(self) -> None:  # noqa: N802 - http.server calls it so
        number = _number(self.path)
        if number is not None and number % 50 == 3:
            time.sleep(_SLOW_S)
        if number is None or number % 100 != 7:
            super().do_GET()
            return
        self.count()
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(65_536))
        except OSError:
            return


def prove(count: int, say: Callable[[str], None]) -> list[str]:
    """Ingest `count` URLs with two kills, and return what did not hold."""
    wrong: list[str] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(file_server(_body, _Wild))
        settings = settings_of(stack.enter_context(temporary_stack("minio", progress=say)))
        initialize(settings)
        commands = Commands(settings, **_QUICK)
        urls = directory / "urls.txt"
        urls.write_text("".join(f"{server.url(f'/{number}')}\n" for number in range(count)))
        command = (
            "ingest-urls",
            str(urls),
            "--state",
            str(directory / "state"),
            "--workers",
            str(_WORKERS),
            "--json",
        )
        sql = stack.enter_context(connected(settings))

        def stored() -> set[str]:
            rows = sql.execute("select attributes->>'url' from records").fetchall()
            return {urlsplit(row[0]).path for row in rows}

        before: dict[str, int] = {}
        for part in KILLED_AT:
            commands.kill(*command, when=lambda part=part: _answered(server) >= part * count)  # type: ignore[misc]
            before |= {path: server.answered[path] for path in stored() - before.keys()}
            say(f"killed with {_answered(server)} URLs answered and {len(before)} records")
        fetched, began = _answered(server), time.monotonic()
        lines = commands.lines(*command, code=1)  # for some failed
        took_s = time.monotonic() - began
        summary, outcomes = lines[-1], Counter(line["status"] for line in lines[:-1])
        fetched = _answered(server) - fetched
        say(f"the third run fetched {fetched} URLs in {took_s:.1f} s, {fetched / took_s:.0f}/s; its summary: {summary}")
        wrong += [] if sum(outcomes.values()) == count else [f"{sum(outcomes.values())} outcomes of {count} URLs"]
        failed = sum(_body(f"/{number}") is None or number % 100 == 7 for number in range(count))
        wrong += [] if outcomes["failed"] == failed else [f"{outcomes['failed']} failed, of {failed} that should"]
        again = [path for path, times in before.items() if server.answered[path] != times]
        say(f"stored before a kill and fetched again: {len(again)}")
        wrong += [f"{len(again)} were fetched again, such as {again[0]}"] if again else []
        bodies = {_body(f"/{number}") for number in range(count) if number % 100 != 7} - {None}
        records = {str(row[0]) for row in sql.execute("select record_id from records").fetchall()}
        wrong += [] if len(records) == len(bodies) else [f"{len(records)} records of {len(bodies)} distinct pictures"]
        times = announced(settings, commands, "ingested.frames.v1", directory)
        say(f"{len(records)} records; {len(times)} announced, {sum(times.values()) - len(times)} of them twice")
        if times.keys() != records or set(times.values()) != {1}:
            wrong.append("not each record is announced exactly once")
    return wrong


def _number(path: str) -> int | None:
    return None if path == "/robots.txt" else int(path[1:])


def _body(path: str) -> bytes | None:
    """One in twenty is missing, and a fifth are the same picture."""
    number = int(path[1:])
    if number % 20 == 0:
        return None
    return picture(1 if number % 5 == 1 else number)


def _answered(server: FileServer) -> int:
    return sum(server.answered.values())
