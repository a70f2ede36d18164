"""Decompress what producers compressed, within a limit that holds before anything is written.

Each codec writes into a mapping of the limit's size, whose pages take memory only once they are written. cramjam raises
where the output does not fit; Python's own gzip would return whatever the input expands to.
"""

from collections.abc import Callable, Iterator
from mmap import mmap
from typing import TypeAlias

import cramjam

# As Kafka numbers them, in the lowest three bits of a batch's attributes.
CODEC_MASK = 0x07
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4

# How the Java client frames snappy: a header, then blocks of a length in four bytes and what it counts.
_XERIAL_MAGIC = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES = 16
_LENGTH_BYTES = 4

_REUSED_BYTES_MAX = 256 * 1024  # what a mapping that is kept may have written

_Decompress: TypeAlias = Callable[[memoryview, memoryview], int]


class DecompressionError(ValueError):
    """Bytes cannot be decompressed, or not within the limit."""


class Decompressor:
    """Decompresses one batch after another, each to at most `bytes_max` bytes; for one thread."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._mapping: mmap | None = None

    def __call__(self, codec: int, data: memoryview) -> memoryview:
        """Return what `data` expands to.

        Raises:
            DecompressionError: the codec is unknown, `data` is damaged, or it expands to more than `bytes_max` bytes.
        """
        decompress = _CODECS.get(codec)
        if decompress is None:
            raise DecompressionError(f"no codec has the number {codec}")
        if not data:
            return data
        mapping, self._mapping = self._mapping or mmap(-1, self._bytes_max), None
        out = memoryview(mapping)
        try:
            size = decompress(data, out)
        except (cramjam.DecompressionError, ValueError) as error:
            raise DecompressionError(f"not decompressible within {self._bytes_max} bytes: {error}") from None
        if size > _REUSED_BYTES_MAX:
            return out[:size]
        # To make a mapping for each small batch would cost more than to copy it.
        self._mapping = mapping
        return memoryview(bytes(out[:size]))


def _snappy(data: memoryview, out: memoryview) -> int:
    size = 0
    for block in _snappy_blocks(data):
        block_bytes = cramjam.snappy.decompress_raw_len(block)
        if block_bytes > len(out) - size:
            raise DecompressionError("a block is too large")
        size += cramjam.snappy.decompress_raw_into(block, out[size : size + block_bytes])
    return size


def _snappy_blocks(data: memoryview) -> Iterator[memoryview]:
    """Yield the blocks of the Java client's framing; any other input is one block."""
    if data[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        yield data
        return
    at = 0
    while at < len(data):
        if data[at : at + len(_XERIAL_MAGIC)] == _XERIAL_MAGIC:  # streams may follow one another
            at += _XERIAL_HEADER_BYTES
            continue
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "big")
        if at > len(data):
            raise DecompressionError("a block goes beyond the input")
        yield data[start:at]


_CODECS: dict[int, _Decompress] = {
    GZIP: cramjam.gzip.decompress_into,
    SNAPPY: _snappy,
    LZ4: cramjam.lz4.decompress_into,
    ZSTD: cramjam.zstd.decompress_into,
}
