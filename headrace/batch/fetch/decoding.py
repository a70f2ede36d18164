"""Decodes a body incrementally and counts its bytes. Pure.

It is as lenient as browsers are: names that are no coding of RFC 9110 are passed over, `deflate` may lack the zlib
header, a gzip body may have several members, and what follows the end of a compressed body is passed over.
"""

import zlib
from collections.abc import Iterator

from headrace.batch.fetch.errors import AnswerRefusedError, TooLargeError

_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_WINDOW_BITS = {"gzip": _GZIP_BITS, "x-gzip": _GZIP_BITS, "deflate": _ZLIB_BITS}
_NOT_OFFERED = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
_GZIP_MAGIC = b"\x1f\x8b"
_CODINGS_MAX = 2
_MEMBERS_MAX = 1000  # each costs a fresh state of zlib


class BodyDecoder:
    """Decodes one body; neither its encoded nor its decoded bytes may exceed `bytes_max`."""

    def __init__(self, encoding: str, *, bytes_max: int, where: str) -> None:
        """`encoding` is the value of Content-Encoding, or empty.

        Raises:
            AnswerRefusedError: the body is compressed in another way than gzip or deflate, or too often.
        """
        names = [name for part in encoding.split(",") if (name := part.strip().lower())]
        if refused := _NOT_OFFERED.intersection(names):
            raise AnswerRefusedError(f"unsupported Content-Encoding {min(refused)}", where=where)
        codings = [name for name in names if name in _WINDOW_BITS]
        if len(codings) > _CODINGS_MAX:
            raise AnswerRefusedError(f"more than {_CODINGS_MAX} content encodings", where=where)
        self._where = where
        self._bytes_max = bytes_max
        self._encoded_bytes = 0
        self._stages = [_Inflate(_WINDOW_BITS[name], bytes_max, where) for name in reversed(codings)]
        self._decoded_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """Return the decoded bytes of the next chunk.

        Raises:
            TooLargeError: the body has more than `bytes_max` bytes. AnswerRefusedError: the bytes are malformed.
        """
        self._encoded_bytes += len(chunk)  # an endless stream may decode to nothing
        decoded = chunk
        for stage in self._stages:
            decoded = b"".join(stage.feed(decoded))
        self._decoded_bytes += len(decoded)
        if max(self._decoded_bytes, self._encoded_bytes) > self._bytes_max:
            raise TooLargeError(f"the body is larger than {self._bytes_max} bytes", where=self._where)
        return decoded

    def finish(self) -> None:
        """Check that the encoded stream is complete; raises AnswerRefusedError."""
        if not all(stage.is_complete for stage in self._stages):
            raise AnswerRefusedError("the encoded body is truncated", where=self._where)


class _Inflate:
    """One coding of a body. `is_complete` is whether it ended with a whole member."""

    def __init__(self, window_bits: int, bytes_max: int, where: str) -> None:
        self._window_bits = window_bits
        self._bytes_max = bytes_max
        self._bytes_left = bytes_max
        self._where = where
        self._inflate = zlib.decompressobj(window_bits)
        self._head = b""  # of the next member, until enough of it has come to be judged
        self._members = 0
        self._is_within = False
        self._is_over = False

    @property
    def is_complete(self) -> bool:
        return self._members > 0 and not self._is_within

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the decoded bytes of a chunk; raises as `BodyDecoder.feed`."""
        while chunk and not self._is_over:
            if not self._is_within:
                chunk, self._head = self._head + chunk, b""
                if len(chunk) < len(_GZIP_MAGIC):
                    self._head = chunk
                    return
                self._begin(chunk)
                continue
            decoded = self._decompressed(chunk)
            self._bytes_left -= len(decoded)
            if self._bytes_left < 0:
                raise TooLargeError(f"the body is larger than {self._bytes_max} bytes", where=self._where)
            yield decoded
            chunk = self._inflate.unused_data
            if self._inflate.eof:
                self._members += 1
                self._is_within = False

    def _begin(self, head: bytes) -> None:
        """Begin the member that begins with `head`; what follows the last one is passed over."""
        if not self._members:
            if self._window_bits == _ZLIB_BITS and (head[0] & 0x0F != zlib.DEFLATED or int.from_bytes(head[:2]) % 31):
                self._window_bits = _RAW_BITS
        elif self._window_bits != _GZIP_BITS or not head.startswith(_GZIP_MAGIC):
            self._is_over = True
            return
        elif self._members >= _MEMBERS_MAX:
            raise AnswerRefusedError(f"the body has more than {_MEMBERS_MAX} gzip members", where=self._where)
        self._inflate = zlib.decompressobj(self._window_bits)
        self._is_within = True

    def _decompressed(self, chunk: bytes) -> bytes:
        try:
            # One byte over the limit is enough to detect it; nothing beyond is decoded.
            return self._inflate.decompress(chunk, self._bytes_left + 1)
        except zlib.error:
            raise AnswerRefusedError("the body does not match its Content-Encoding", where=self._where) from None
