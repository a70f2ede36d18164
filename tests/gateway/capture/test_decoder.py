"""The decoder process and its confinement, with a peer that does what the proxy never would."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from headrace.gateway.capture import confinement, decoder
from tests.gateway.rtsp_server import FakeCamera

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

ATTEMPTS = """
import ctypes, json, os, socket, sys
from headrace.gateway.capture.confinement import confine

libc = ctypes.CDLL(None)
SYSCALLS = {"io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438}
inherited = int(sys.argv[1])
stdin = socket.socket(fileno=0)
attempts = {
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "ipv6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM),
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "unix": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "pair": socket.socketpair,
    "bind": lambda: stdin.bind(b"\\0headrace-test"),
    "listen": lambda: stdin.listen(),
    "inherited": lambda: os.fstat(inherited),
    "open": lambda: os.open("/proc/self/environ", os.O_RDONLY),
    "create": lambda: os.open("/tmp/headrace-test", os.O_CREAT | os.O_WRONLY),
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "ptrace": lambda: refused(libc.ptrace(16, os.getppid(), None, None)),
    "read_memory": lambda: refused(libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0)),
    "new_namespace": lambda: refused(libc.unshare(0)),
    **{name: (lambda number=number: refused(libc.syscall(number, 1, None))) for name, number in SYSCALLS.items()},
}

def refused(result):
    if result == -1:
        raise OSError

def succeeded():
    names = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        names.append(name)
    return names

confine()
names = succeeded()
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, json.dumps(succeeded()).encode())
    os._exit(0)
os.wait()
tcp = socket.socket()
tcp.connect(("192.0.2.1", 80))
print(json.dumps([names, json.loads(os.read(reading, 4096)), tcp.detach()]))
"""


def test_a_confined_process_and_its_children_get_nothing_beside_the_inherited_socket() -> None:
    ours, inherited = socket.socketpair()
    with ours, inherited:
        argv = [sys.executable, "-I", "-c", ATTEMPTS, str(ours.fileno())]
        ended = subprocess.run(
            argv, stdin=inherited, capture_output=True, check=True, timeout=60, pass_fds=[ours.fileno()]
        )
    assert json.loads(ended.stdout) == [[], [], confinement.INHERITED_SOCKET]


def test_a_process_with_a_thread_is_not_confined() -> None:
    code = (
        "import threading; from headrace.gateway.capture.confinement import confine\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start(); confine()"
    )
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=False, timeout=60)
    assert b"NotConfinedError: a thread is running" in ended.stderr


@pytest.fixture
def camera() -> Iterator[FakeCamera]:
    with FakeCamera() as other:
        yield other


@pytest.mark.parametrize(("confined", "connections"), [(True, 0), (False, 1)])
def test_a_redirect_that_reaches_the_decoder_leads_nowhere_if_it_is_confined(
    camera: FakeCamera, confined: bool, connections: int
) -> None:
    ours, inherited = socket.socketpair()
    request = {
        "target": "/stream",
        "confined": confined,
        "fps": 10,
        "duration_s": 20,
        "frame_count": 1,
        "wait_s_max": 10,
    }
    with ours, inherited:
        process = subprocess.Popen([sys.executable, "-I", decoder.__file__], stdin=inherited, stdout=subprocess.PIPE)
        inherited.close()
        ours.sendall(json.dumps(request).encode() + b"\n")
        redirecting = threading.Thread(target=redirect, args=(ours, camera.url()))
        redirecting.start()
        output, _ = process.communicate(timeout=60)
        redirecting.join(20)
    assert camera.connections == connections
    assert (b"F" in output) == (not confined)


def redirect(decoder_socket: socket.socket, url: str) -> None:
    """Answer every request with a redirect."""
    with suppress(OSError):
        while requests := decoder_socket.recv(65_536):
            for sequence in re.findall(rb"CSeq: (\d+)", requests):
                answer = f"RTSP/1.0 302 Found\r\nCSeq: {sequence.decode()}\r\nLocation: {url}\r\n\r\n"
                decoder_socket.sendall(answer.encode())
