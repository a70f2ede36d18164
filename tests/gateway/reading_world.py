"""What the tests of reading calls read: events that were published and ingested for them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from headrace.producers.publisher import Publisher
from headrace.schemas.digest import canonical_body, record_id, sha256_hex
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Ldo, kind_of
from tests.gateway.gateway_world import Gateway, name, picture
from tests.streams import streams_samples as samples
from tests.waiting import until

INGESTED_S_MAX = 90.0
NOWHERE = "redis://127.0.0.1:1/0"


def digest_of(event: InputEvent) -> str:
    return sha256_hex(canonical_body(event)) if isinstance(event, Cid | Ldo) else event.sha256


def record_of(event: InputEvent) -> str:
    return str(record_id(kind_of(event), digest_of(event)))


def ingest(gateway: Gateway, *events: InputEvent) -> None:
    """Publish events, and wait until each delivery is in the catalog."""
    wanted = {(record_of(one), one.site, one.source_id) for one in events}
    with Publisher.from_settings(gateway.settings) as publisher:
        for event in events:
            publisher.publish(event).result(60)

    def seen() -> bool:
        rows = gateway.rows(
            "select record_id::text, site, source_id from sightings where record_id = any(%s::uuid[])",
            [record_of(one) for one in events],
        )
        return wanted <= set(rows)

    until(seen, INGESTED_S_MAX, f"{len(events)} events to be ingested")


def frame(site: str, source_id: str, body: bytes | None = None, **changes: object) -> Frame:
    body = picture(form=".png") if body is None else body
    return samples.frame(body, site=site, source_id=source_id, **changes)


def clip(site: str, source_id: str) -> Clip:
    return samples.clip(samples.mp4(filler=name("clip").encode()), site=site, source_id=source_id)


def cid(site: str, source_id: str, code: str | None = None) -> Cid:
    return samples.cid(code or name("code"), site=site, source_id=source_id)


def ldo(site: str, source_id: str, ldo_id: str | None = None) -> Ldo:
    return samples.ldo(ldo_id or name("part"), site=site, source_id=source_id)


class Passage:
    """Passes connections on to a server until it is shut, as a network does."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition("//")[2].rpartition(":")
        self._to = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listening]
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(self._to)
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def passage(address: str) -> Iterator[Passage]:
    opened = Passage(address)
    try:
        yield opened
    finally:
        opened.shut()
