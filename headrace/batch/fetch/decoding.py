"""Decodes a body incrementally and counts its bytes. Pure."""

import zlib

from headrace.batch.fetch.errors import AnswerRefusedError, TooLargeError

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class BodyDecoder:
    """Decodes one body; neither its encoded nor its decoded bytes may exceed `bytes_max`."""

    def __init__(self, encoding: str, *, bytes_max: int, where: str) -> None:
        """`encoding` is the value of Content-Encoding, or empty.

        Raises:
            AnswerRefusedError: the encoding is neither gzip nor deflate.
        """
        self._where = where
        self._bytes_max = bytes_max
        self._decoded_left = bytes_max
        self._encoded_bytes = 0
        encoding = encoding.strip().lower()
        if encoding in {"", "identity"}:
            self._inflate = None
        elif encoding in _WINDOW_BITS:
            self._inflate = zlib.decompressobj(_WINDOW_BITS[encoding])
        else:
            raise AnswerRefusedError("unsupported Content-Encoding", where=where)

    def feed(self, chunk: bytes) -> bytes:
        """Return the decoded bytes of the next chunk.

        Raises:
            TooLargeError: the body has more than `bytes_max` bytes. AnswerRefusedError: the bytes are malformed, or
                bytes follow the end of the encoded stream.
        """
        self._encoded_bytes += len(chunk)  # an endless stream may decode to nothing
        if self._inflate is None:
            decoded = chunk
        else:
            try:
                # One byte over the limit is enough to detect it; nothing beyond is decoded.
                decoded = self._inflate.decompress(chunk, self._decoded_left + 1)
            except zlib.error:
                raise AnswerRefusedError("the body does not match its Content-Encoding", where=self._where) from None
            if self._inflate.unused_data:
                raise AnswerRefusedError("bytes follow the end of the encoded body", where=self._where)
        self._decoded_left -= len(decoded)
        if self._decoded_left < 0 or self._encoded_bytes > self._bytes_max:
            raise TooLargeError(f"the body is larger than {self._bytes_max} bytes", where=self._where)
        return decoded

    def finish(self) -> None:
        """Check that the encoded stream is complete; raises AnswerRefusedError."""
        if self._inflate is not None and not self._inflate.eof:
            raise AnswerRefusedError("the encoded body is truncated", where=self._where)
