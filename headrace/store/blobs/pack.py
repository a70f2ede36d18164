"""Many small bodies in one object: an uncompressed tar that any tar and WebDataset read.

The archive depends only on the bodies: the same batch gives the same bytes, so a PUT may be repeated.
"""

from collections.abc import Sequence
from zlib import adler32

MEDIA_TYPE = "application/x-tar"
BLOCK_BYTES = 512
MEMBER_SUFFIX = ".json"

_DIGEST_DIGITS = 64
# The fields of a ustar header around those that vary (digest, size, checksum), POSIX.1-2017 pax, "ustar Interchange
# Format": the rest of the name, mode 0644, uid 0, gid 0; mtime 0; a regular file, the magic, and nothing else.
_BEFORE_SIZE = MEMBER_SUFFIX.encode().ljust(100 - _DIGEST_DIGITS, b"\0") + b"0000644\0" + b"0000000\0" * 2
_AFTER_SIZE = b"\0" + b"%011o\0" % 0
_AFTER_CHECKSUM = b"\0 0" + bytes(100) + b"ustar\x0000" + bytes(32 + 32 + 8 + 8 + 155 + 12)
# A checksum counts its own eight bytes as spaces; its last two are among those after it.
_CONSTANT_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + 8 * ord(" ") + sum(_AFTER_CHECKSUM[2:])
_PADDING = [bytes(-length % BLOCK_BYTES) for length in range(BLOCK_BYTES)]
_END = bytes(2 * BLOCK_BYTES)


def build(members: Sequence[tuple[str, bytes]]) -> tuple[bytes, list[tuple[int, int]]]:
    """Pack (digest as hex, body) pairs into a tar; return it with the (offset, length) of each body, in bytes."""
    parts: list[bytes] = []
    spans: list[tuple[int, int]] = []
    offset = 0
    for digest, body in members:
        length = len(body)
        padding = _PADDING[length % BLOCK_BYTES]
        parts += (_header(digest, length), body, padding)
        spans.append((offset + BLOCK_BYTES, length))
        offset += BLOCK_BYTES + length + len(padding)
    parts.append(_END)
    return b"".join(parts), spans


def blanked(tar: bytes, kept: Sequence[tuple[int, int]]) -> bytes:
    """Return a tar of the same length with only the bodies at these (offset, length) spans, each where it was.

    What lies between is one member of zeros, named by a digest of zeros.
    """
    parts: list[bytes] = []
    at = 0
    for offset, length in sorted(kept):
        start, end = offset - BLOCK_BYTES, offset + length + len(_PADDING[length % BLOCK_BYTES])
        parts += (_blank(start - at), tar[start:end])
        at = end
    parts += (_blank(len(tar) - len(_END) - at), _END)
    return b"".join(parts)


def _blank(length: int) -> bytes:
    return _header("0" * _DIGEST_DIGITS, length - BLOCK_BYTES) + bytes(length - BLOCK_BYTES) if length > 0 else b""


def _header(digest: str, length: int) -> bytes:
    name = digest.encode("ascii")
    size = b"%011o" % length
    # The lower half of an Adler-32 is one more than the sum of the bytes, at a tenth of the cost of `sum`. It counts
    # modulo 65,521, which 75 bytes cannot reach.
    checksum = _CONSTANT_SUM + (adler32(name + size) & 0xFFFF) - 1
    return b"%b%b%b%b%06o%b" % (name, _BEFORE_SIZE, size, _AFTER_SIZE, checksum, _AFTER_CHECKSUM)
