"""A network of its own: what passes over the cable, and what does not."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.faults import netns
from tests.faults.netns import Namespace
from tests.faults.possible import NotPossibleError
from tests.faults.test_toxiproxy import Echo, serve
from tests.faults.toxiproxy import Toxiproxy
from tests.processes import free_port

pytestmark = pytest.mark.server

ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1) as connection:
    connection.settimeout(1)
    connection.sendall(b"far")
    sys.exit(0 if connection.recv(3) == b"far" else 3)
"""
TO_THE_FAR_SIDE = b"to the far side"


@pytest.fixture(scope="module")
def space() -> Iterator[Namespace]:
    try:
        with netns.namespace() as made:
            yield made
    except NotPossibleError as error:
        pytest.skip(f"not possible here: {error}")


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    for address in serve(Echo):
        yield int(address.rsplit(":", 1)[1])


@pytest.fixture(scope="module")
def near(space: Namespace, echo: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    with netns.joined(space, {"echo": echo}, tmp_path_factory.mktemp("netns")) as proxies:
        yield proxies


def answered(space: Namespace, port: int) -> bool:
    """Whether a process inside has an answer from a server that listens on 127.0.0.1 on this side."""
    done = subprocess.run([*space.prefix, sys.executable, "-c", ASK, str(port)], check=False, capture_output=True)
    return done.returncode == 0


def test_a_process_inside_reaches_a_server_on_this_sides_loopback(space: Namespace, near: Toxiproxy, echo: int) -> None:
    assert answered(space, echo)
    assert not answered(space, free_port())


@pytest.mark.parametrize("fault", ["unplugged", "unheard", "mute"])
def test_nothing_is_answered_while_they_are_apart_and_everything_is_afterwards(
    space: Namespace, near: Toxiproxy, echo: int, fault: str
) -> None:
    apart: AbstractContextManager[None] = getattr(space, fault)()
    with apart:
        assert not answered(space, echo)
    assert answered(space, echo)


def test_one_pair_can_be_apart_alone(space: Namespace, near: Toxiproxy, echo: int) -> None:
    for stream in (None, "upstream", "downstream"):
        with near.black_hole("echo", stream=stream):
            assert not answered(space, echo)
        assert answered(space, echo)


@pytest.mark.parametrize(("fault", "arrives"), [("unheard", True), ("mute", False)])
def test_one_way_is_one_way(space: Namespace, fault: str, arrives: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind((space.near, 0))
        heard.settimeout(1)
        send = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', {heard.getsockname()})"
        apart: AbstractContextManager[None] = getattr(space, fault)()
        with apart:
            subprocess.run([*space.prefix, sys.executable, "-c", send], check=False, capture_output=True)
            if arrives:
                assert heard.recv(1) == b"x"
            else:
                with pytest.raises(TimeoutError):
                    heard.recv(1)


def test_losing_packets_works_or_says_what_is_missing(space: Namespace, near: Toxiproxy, echo: int) -> None:
    try:
        with space.lossy(5):
            assert answered(space, echo)
    except NotPossibleError as error:
        pytest.skip(f"not possible here: {error}")
    assert answered(space, echo)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    try:
        with netns.namespace() as made:
            assert (Path("/run/netns") / made.name).exists()
            assert (Path("/sys/class/net") / made.device).exists()
    except NotPossibleError as error:
        pytest.skip(f"not possible here: {error}")
    assert not (Path("/run/netns") / made.name).exists()
    assert not (Path("/sys/class/net") / made.device).exists()
