"""A body's bytes, decoded and counted as they come. No I/O."""

import zlib

from headrace.batch.fetch.errors import AnswerRefusedError, TooLargeError

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Decoder:
    """Decodes one body of at most `bytes_max` bytes, decoded and as they come; never holds more than those of it."""

    def __init__(self, encoding: str, *, bytes_max: int, where: str) -> None:
        """Begin; `encoding` is what Content-Encoding says, empty where it says nothing.

        Raises:
            AnswerRefused: it is another one than gzip and deflate, which is not even begun.
        """
        self._where = where
        self._bytes_max = bytes_max
        self._left_bytes = bytes_max
        self._came_bytes = 0
        encoding = encoding.strip().lower()
        if encoding in {"", "identity"}:
            self._inflate = None
        elif encoding in _WINDOW_BITS:
            self._inflate = zlib.decompressobj(_WINDOW_BITS[encoding])
        else:
            raise AnswerRefusedError("the answer is encoded in a way that was not asked for", where=where)

    def feed(self, chunk: bytes) -> bytes:
        """Return what the next bytes decode to.

        Raises:
            TooLarge: with them there are more than `bytes_max`. AnswerRefused: they do not follow their encoding, or
                something follows its end, which zlib would collect and nobody would see.
        """
        self._came_bytes += len(chunk)  # there are encodings of nothing that have no end
        if self._inflate is None:
            decoded = chunk
        else:
            try:
                # One byte more than may come: that it does come is the verdict, and nothing behind it is decoded.
                decoded = self._inflate.decompress(chunk, self._left_bytes + 1)
            except zlib.error:
                raise AnswerRefusedError("the answer's bytes do not follow their encoding", where=self._where) from None
            if self._inflate.unused_data:
                raise AnswerRefusedError("more bytes come behind the end of the answer's encoding", where=self._where)
        self._left_bytes -= len(decoded)
        if self._left_bytes < 0 or self._came_bytes > self._bytes_max:
            raise TooLargeError(f"there are more than {self._bytes_max} bytes", where=self._where)
        return decoded

    def end(self) -> None:
        """Find out whether the body is whole; raises AnswerRefused."""
        if self._inflate is not None and not self._inflate.eof:
            raise AnswerRefusedError("the answer's encoded bytes end too early", where=self._where)
