"""Many small bodies in one object: an uncompressed tar that any tar and WebDataset read.

The archive depends on nothing but the bodies: the same batch gives the same bytes, so a repeated PUT finds itself.
"""

from collections.abc import Sequence

BLOCK_BYTES = 512
MEMBER_SUFFIX = ".json"

_NAME_BYTES = 100
# The fields of a ustar header around those that vary (name, size, checksum), POSIX.1-2017 pax, "ustar Interchange
# Format": mode 0644, uid 0, gid 0 before the size; mtime 0 after it; a regular file and the magic after the checksum.
_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2
_MTIME = b"%011o\0" % 0
_AFTER_CHECKSUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(32 + 32) + b"0000000\0" * 2 + bytes(155 + 12)
# A checksum counts its own eight bytes as spaces.
_CONSTANT_SUM = sum(_BEFORE_SIZE) + sum(_MTIME) + 8 * ord(" ") + sum(_AFTER_CHECKSUM)
_PADDING = [bytes(-length % BLOCK_BYTES) for length in range(BLOCK_BYTES)]
_END = bytes(2 * BLOCK_BYTES)


def build(members: Sequence[tuple[str, bytes]]) -> tuple[bytes, list[tuple[int, int]]]:
    """Pack (digest as hex, body) into a tar, and say where each body lies in it, as (offset, length) in bytes."""
    parts: list[bytes] = []
    places: list[tuple[int, int]] = []
    offset = 0
    for digest, body in members:
        length = len(body)
        padding = _PADDING[length % BLOCK_BYTES]
        parts += (_header(digest, length), body, padding)
        places.append((offset + BLOCK_BYTES, length))
        offset += BLOCK_BYTES + length + len(padding)
    parts.append(_END)
    return b"".join(parts), places


def _header(digest: str, length: int) -> bytes:
    name = (digest + MEMBER_SUFFIX).encode("ascii")
    size = b"%011o\0" % length
    checksum = _CONSTANT_SUM + sum(name) + sum(size)
    return b"".join(
        (
            name.ljust(_NAME_BYTES, b"\0"),
            _BEFORE_SIZE,
            size,
            _MTIME,
            b"%06o\0 " % checksum,
            _AFTER_CHECKSUM,
        )
    )
