"""Confines the decoder process to one inherited socket with seccomp (Linux, seccomp(2)). As a script: tries that out.

FFmpeg makes its TCP connection itself, so `socket` cannot simply be refused. A filter may answer a call instead of the
kernel, and this one answers `socket` with 0 and `connect` with success: descriptor 0 is the socket to the proxy, and
the process gets no other, whatever address FFmpeg is led to. It also opens no file and touches no process, through
which it could borrow the sockets of another one.

Threads that run already would not be confined, so there must be none.
"""

import ctypes
import os
import platform
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

INHERITED_SOCKET = 0
_STREAMS = 3  # input, output and errors

_CLONE_NEWUSER, _CLONE_NEWNET = 0x1000_0000, 0x4000_0000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2

# Instructions of a filter (linux/bpf_common.h), its results (linux/seccomp.h), and offsets in `struct seccomp_data`.
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _AND, _JUMP_IF_EQUAL, _JUMP_IF_GREATER_OR_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_KILL, _ERRNO, _ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
_NUMBER, _ARCHITECTURE, _DOMAIN, _TYPE = 0, 4, 16, 24
_ZERO = _ERRNO  # the call returns 0, the descriptor INHERITED_SOCKET, without being executed
_EACCES = _ERRNO | 13
_X32 = 0x4000_0000  # the bit that marks the calls of another ABI
_TYPE_MASK = 0xF  # without SOCK_CLOEXEC and SOCK_NONBLOCK

_REFUSED = {
    # by name: the number on x86_64, and on aarch64; -1: there is none
    "socketpair": (53, 199),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open": (2, -1),
    "creat": (85, -1),
    "openat": (257, 56),
    "openat2": (437, 437),
    "open_by_handle_at": (304, 265),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "setns": (308, 268),
    "unshare": (272, 97),
    "kill": (62, 129),
}
_MACHINES = {
    # AUDIT_ARCH_* (linux/audit.h), the numbers of socket and connect, and the column of _REFUSED
    "x86_64": (0xC000_003E, 41, 42, 0),
    "aarch64": (0xC000_00B7, 198, 203, 1),
}


class NotConfinedError(Exception):
    """Raised where this process cannot be confined."""


def confine() -> None:
    """Confine this process for ever to its standard streams, of which the first may be a socket.

    It is also put into a network namespace without interfaces where that is allowed.

    Raises:
        NotConfinedError: the system has no seccomp, or a thread is running.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _MACHINES:
        raise NotConfinedError(f"there is no filter for {sys.platform} on {machine}")
    if len([*Path("/proc/self/task").iterdir()]) > 1:
        raise NotConfinedError("a thread is running")
    # Libraries of the parent open some that are inherited.
    os.closerange(_STREAMS, os.sysconf("SC_OPEN_MAX"))
    libc = ctypes.CDLL(None, use_errno=True)
    # Containers often forbid this; the filter does not need it.
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    instructions = list(_filter(machine))
    program = ctypes.create_string_buffer(b"".join(instructions))
    header = struct.pack("@HP", len(instructions), ctypes.addressof(program))
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, None), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header)):
        if libc.prctl(*arguments[:2], ctypes.c_char_p(arguments[2]), ctypes.c_long(0), ctypes.c_long(0)):
            raise NotConfinedError(os.strerror(ctypes.get_errno()))


def _filter(machine: str) -> Iterator[bytes]:
    """Yield the instructions of the filter."""
    architecture, socket_number, connect_number, column = _MACHINES[machine]
    yield from (_instruction(_LOAD, _ARCHITECTURE), _jump(_JUMP_IF_EQUAL, architecture, 1, 0))
    yield _instruction(_RETURN, _KILL)
    yield from (_instruction(_LOAD, _NUMBER), _jump(_JUMP_IF_GREATER_OR_EQUAL, _X32, 0, 1))
    yield _instruction(_RETURN, _KILL)
    for numbers in _REFUSED.values():
        if (number := numbers[column]) >= 0:
            yield from (_jump(_JUMP_IF_EQUAL, number, 0, 1), _instruction(_RETURN, _EACCES))
    yield from (_jump(_JUMP_IF_EQUAL, connect_number, 0, 1), _instruction(_RETURN, _ZERO))
    yield from (_jump(_JUMP_IF_EQUAL, socket_number, 1, 0), _instruction(_RETURN, _ALLOW))
    yield from (_instruction(_LOAD, _DOMAIN), _jump(_JUMP_IF_EQUAL, socket.AF_INET, 1, 0))
    yield _instruction(_RETURN, _EACCES)
    yield from (_instruction(_LOAD, _TYPE), _instruction(_AND, _TYPE_MASK))
    yield from (_jump(_JUMP_IF_EQUAL, socket.SOCK_STREAM, 1, 0), _instruction(_RETURN, _EACCES))
    yield _instruction(_RETURN, _ZERO)


def _instruction(code: int, operand: int) -> bytes:
    return _INSTRUCTION.pack(code, 0, 0, operand)


def _jump(code: int, operand: int, skipped_if_true: int, skipped_if_false: int) -> bytes:
    return _INSTRUCTION.pack(code, skipped_if_true, skipped_if_false, operand)


def _main() -> int:
    """Confine this process, try to get what it must not have, and write why that is not so."""
    if fault := _trial():
        sys.stdout.write(fault)
    return 1 if fault else 0


def _trial() -> str | None:
    try:
        confine()
    except NotConfinedError as error:
        return str(error)
    for domain, socket_type in (
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_STREAM),
    ):
        with suppress(OSError):
            socket.socket(domain, socket_type)
            return "the filter has no effect on sockets"
    if socket.socket(socket.AF_INET, socket.SOCK_STREAM).fileno() != INHERITED_SOCKET:
        return "the filter has no effect on connections"
    return None


if __name__ == "__main__":
    sys.exit(_main())
