"""Virus scanning by a real clamd with a signature of the tests' own; skipped, with the reason, where there is none."""

import asyncio
import getpass
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.gateway.problems import Problem
from headrace.gateway.uploads.scanning import Scanner
from headrace.runtime.errors import HeadraceError
from headrace.schemas.limits import INLINE_BYTES_MAX, MIB
from tests.gateway.gateway_world import StartGateway, name, picture
from tests.gateway.live_world import receive, websocket
from tests.gateway.tus_client import TusClient, parts_of
from tests.processes import free_port
from tests.streams.streams_samples import mp4
from tests.waiting import until

pytestmark = pytest.mark.stack

MARK = b"headrace-test-signature"


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """clamd that knows one signature: Debian's package `clamav-daemon`, without its database."""
    program = shutil.which("clamd") or shutil.which("clamd", path="/usr/sbin")
    if program is None:
        pytest.skip("needs clamd: apt-get install clamav-daemon")
    folder = tmp_path_factory.mktemp("clamd")
    (folder / "own.ndb").write_text(f"Headrace.Test:0:*:{MARK.hex()}\n")
    port = free_port()
    lines = {
        "DatabaseDirectory": folder,
        "TCPSocket": port,
        "TCPAddr": "127.0.0.1",
        "Foreground": "yes",
        "LogFile": folder / "log",
        "StreamMaxLength": "12M",
        "User": getpass.getuser(),
    }
    config = folder / "clamd.conf"
    config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen([program, "--config-file", str(config)], stdout=out, stderr=out)
    try:
        until(lambda: _listens(port), 30, "clamd to listen")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_clamd_finds_is_refused_and_the_rest_is_taken(clamd: str, start_gateway: StartGateway) -> None:
    scanned = start_gateway(gateway_clamd=clamd, gateway_answer_s_max=60, gateway_ingest_per_minute=100)
    good = picture()
    with scanned.client() as client:
        assert client.get("/ready").json()["needs"]["clamd"] == "ok"
        bad = client.post("/ingest", files={"file": ("a.jpg", good + MARK)})
        assert (bad.status_code, bad.json()["code"]) == (422, "infected")
        assert "Headrace.Test" in bad.json()["detail"]
        assert client.post("/ingest", files={"file": ("a.jpg", good)}).status_code == 200
        large = client.post("/ingest", files={"file": ("a.jpg", good + bytes(13_000_000))})
        assert (large.status_code, large.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("size_bytes", [50_000, INLINE_BYTES_MAX + MIB], ids=["in memory", "staged"])
def test_a_resumable_upload_is_scanned_when_it_is_whole(
    clamd: str, start_gateway: StartGateway, size_bytes: int
) -> None:
    video = mp4(filler=name("clip").encode().ljust(size_bytes, b"a"))
    with TusClient(start_gateway(gateway_clamd=clamd, gateway_answer_s_max=60)) as client:
        # The signature lies across two parts.
        bad = video + MARK
        path = client.begin(len(bad))
        middle = len(bad) - len(MARK) // 2
        assert client.patch(path, 0, bad[:middle]).status_code == 204
        answer = client.patch(path, middle, bad[middle:])
        assert (answer.status_code, answer.json()["code"]) == (422, "infected")
        until(lambda: not parts_of(client.gateway, path), 30, "the parts to be gone")
        path = client.begin(len(video))
        assert client.patch(path, 0, video).status_code == 204


def test_a_frame_of_a_feed_is_scanned(clamd: str, start_gateway: StartGateway) -> None:
    gateway = start_gateway(gateway_clamd=clamd, gateway_answer_s_max=60)
    good = picture()
    with websocket(gateway, "/ws/ingest", gateway.key()) as feed:
        receive(feed)
        for seq, body in enumerate([good + MARK, good]):
            header = {"type": "frame", "seq": seq, "source_id": "camera", "site": "live", "size_bytes": len(body)}
            feed.send(json.dumps(header))
            feed.send(body)
        answers = {one["seq"]: one for one in (receive(feed) for _ in range(2))}
    assert (answers[0]["type"], answers[0]["code"]) == ("refused", "infected")
    assert answers[1]["type"] == "ack"


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_connection_that_ends_early_is_a_file_too_large_only_where_clamd_lives(
    comes_back: bool,
) -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\0")
        if comes_back and connections == 2:
            await reader.readuntil(b"\0\0\0\0")
            writer.write(b"stream: OK\0")
            writer.close()
        else:
            # With what it has not read, this resets the connection.
            await asyncio.sleep(0.1)
            writer.transport.abort()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        scanner = Scanner(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(Problem if comes_back else HeadraceError) as raised:
            await scanner.scan(bytes(1_000_000))
    assert connections == 2
    if isinstance(raised.value, Problem):
        assert raised.value.status_code == 413
    else:
        assert raised.value.code == "clamd_unreachable"


def test_while_clamd_is_away_no_file_is_taken(start_gateway: StartGateway, tmp_path: Path) -> None:
    lonely = start_gateway(gateway_clamd=tmp_path / "nothing.sock", ready=False)
    with lonely.client() as client:
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()["needs"]["clamd"] != "ok") == (503, True)
        answer = client.post("/ingest", files={"file": ("a.jpg", picture())})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "retry-after" in answer.headers
