"""A resumable upload of any size: the gateway's memory does not grow with it."""

import os
import threading
from collections.abc import Iterator
from hashlib import sha256
from typing import Self

import psutil
import pytest

from headrace.schemas.digest import staging_prefix
from headrace.schemas.limits import CLIP_BYTES_MAX, MIB
from tests.gateway.gateway_world import Gateway, StartGateway, name
from tests.gateway.tus_client import TusClient, is_held, parts_of, stored
from tests.streams.streams_samples import mp4
from tests.waiting import until

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(3600)]

SIZE_BYTES = int(os.environ.get("TEST_UPLOAD_BYTES", 192 * MIB))
GROWTH_BYTES_MAX = 64 * MIB
WAIT_S_MAX = 1200.0


class Large:
    """An MP4 of any size, made while it is read: a movie, and a `free` box of what no other test has."""

    def __init__(self, size_bytes: int) -> None:
        assert size_bytes <= CLIP_BYTES_MAX
        movie = mp4()
        self._head = movie + (size_bytes - len(movie)).to_bytes(4, "big") + b"free"
        self._block = os.urandom(MIB)
        self.size_bytes = size_bytes

    def read(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            if start < len(self._head):
                chunk = self._head[start:end]
            else:
                at = (start - len(self._head)) % MIB
                chunk = self._block[at : at + end - start]
            yield chunk
            start += len(chunk)

    def sha256(self) -> str:
        digest = sha256()
        for chunk in self.read(0, self.size_bytes):
            digest.update(chunk)
        return digest.hexdigest()


class Memory:
    """Watches how much memory a process has; its children are not counted."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.idle = self.most = self._process.memory_info().rss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, self._process.memory_info().rss)


def test_a_large_upload_that_is_cut_at_99_percent(start_gateway: StartGateway) -> None:
    gateway, file, source = start_gateway(gateway_answer_s_max=60), Large(SIZE_BYTES), name("camera")
    digest, cut = file.sha256(), file.size_bytes * 99 // 100
    with TusClient(gateway, timeout_s=WAIT_S_MAX) as client, Memory(gateway.process.process.pid) as memory:
        path = client.begin(file.size_bytes, site="plant", source_id=source, sha256=digest, filename="large.mp4")
        with client.unfinished(path, 0, file.size_bytes) as connection:
            for chunk in file.read(0, cut):
                connection.sendall(chunk)
        until(lambda: not is_held(gateway, path), WAIT_S_MAX, "the gateway to notice")
        offset = client.offset(path)
        assert cut - MIB <= offset <= cut
        after_cut = memory.most
        answer = client.patch(
            path, offset, file.read(offset, file.size_bytes), **{"Content-Length": str(file.size_bytes - offset)}
        )
        assert answer.status_code == 204, answer.text
        assert int(answer.headers["Upload-Offset"]) == file.size_bytes
        ingested(gateway, answer.headers["Headrace-Record-Id"], digest, file.size_bytes)
        grown = memory.most - memory.idle
    print(
        f"{file.size_bytes / MIB:.0f} MiB: cut at {cut}, resumed at {offset}, idle {memory.idle / MIB:.1f} MiB, "
        f"{(after_cut - memory.idle) / MIB:.1f} MiB more until the cut, {grown / MIB:.1f} MiB more in all"
    )
    assert grown <= GROWTH_BYTES_MAX
    assert parts_of(gateway, path) == {}
    until(lambda: not stored(gateway, staging_prefix("plant", source)), WAIT_S_MAX, "staging to be empty")


def ingested(gateway: Gateway, record_id: str, digest: str, size_bytes: int) -> None:
    """Wait until the record is there, and compare it."""
    sql = "select encode(digest, 'hex'), size_bytes from records where record_id = %s"
    until(lambda: gateway.rows(sql, record_id), WAIT_S_MAX, "the record")
    assert gateway.rows(sql, record_id) == [(digest, size_bytes)]
