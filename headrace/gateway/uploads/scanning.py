"""Scan files for malware while they are received, with clamd's INSTREAM protocol (clamd(8)).

A file is accepted only after clamd found nothing. While clamd is unavailable no file is accepted; an operator who
prefers unscanned files unsets HEADRACE_GATEWAY_CLAMD.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress

from headrace.gateway.problems import Problem, ProblemCode
from headrace.runtime.errors import HeadraceError, unreachable
from headrace.runtime.logs import Action, get_log

CONNECT_S_MAX = 5.0
ANSWER_S_MAX = 120.0  # from the last byte to the verdict
SEND_S_MAX = 20.0  # for a chunk
CHUNK_BYTES_MAX = 256 * 1024
_ANSWER_BYTES_MAX = 4096
_HINT = "check HEADRACE_GATEWAY_CLAMD and that clamd runs"


class Scanner:
    """Scans files with the clamd at host:port, or at the path of a socket."""

    def __init__(self, address: str) -> None:
        self._address = address

    def begin(self) -> "Scan":
        """Begin the scan of a file; nothing is sent yet."""
        return Scan(self._address)

    async def scan(self, body: bytes) -> None:
        """Scan a file in memory.

        Raises:
            Problem, HeadraceError: as `Scan.verdict`.
        """
        await self.begin().whole(body)

    async def check(self) -> None:
        """Check that clamd answers, for readiness.

        Raises:
            HeadraceError: clamd does not answer.
        """
        await Scan(self._address, is_probe=True).whole(b"")


async def scanned(scanner: Scanner | None, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks of a file and scan them, if a scanner is configured.

    Raises:
        Problem, HeadraceError: as `Scan.verdict`, after the last chunk at the latest.
    """
    scan = scanner.begin() if scanner else None
    try:
        async for chunk in chunks:
            if scan:
                await scan.write(chunk)
            yield chunk
        if scan:
            await scan.verdict()
    finally:
        if scan:
            await scan.abandon()


class Scan:
    """The scan of a file: call `write` for each chunk, then `verdict`; or `abandon`, in any state."""

    def __init__(self, address: str, *, is_probe: bool = False) -> None:
        """`is_probe` only checks whether clamd answers."""
        self._address = address
        self._is_probe = is_probe
        self._writer: asyncio.StreamWriter | None = None
        self._answer: asyncio.Task[bytes] | None = None

    async def write(self, chunk: bytes) -> None:
        """Send bytes.

        Raises:
            Problem: the file is too large for clamd (413). HeadraceError: clamd is unavailable.
        """
        if self._writer is None or self._answer is None:
            self._writer, self._answer = await self._open()
        # Only a file that is too large is answered before its end.
        if self._answer.done():
            await self._read_answer(self._answer)
        for start in range(0, len(chunk), CHUNK_BYTES_MAX):
            part = chunk[start : start + CHUNK_BYTES_MAX]
            await self._send(self._writer, struct.pack("!I", len(part)) + part)

    async def verdict(self) -> None:
        """Wait for the result of the file.

        Raises:
            Problem: clamd found malware (422), or the file is too large for it (413).
            HeadraceError: clamd is unavailable, or failed.
        """
        if self._writer is None or self._answer is None:
            return  # an empty file
        await self._send(self._writer, struct.pack("!I", 0))
        await self._read_answer(self._answer)

    async def whole(self, body: bytes) -> None:
        """Scan a file in memory; raises as `write` and `verdict`."""
        try:
            await self.write(body)
            await self.verdict()
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Close the connection; may be repeated."""
        if self._answer is not None:
            self._answer.cancel()
            with suppress(OSError, asyncio.CancelledError):
                await self._answer
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.transport.abort()  # closing would wait for a clamd that does not read

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_S_MAX):
                writer.write(data)
                await writer.drain()
        except TimeoutError:
            raise self._unavailable("it does not read") from None
        except OSError:
            return  # the answer has the reason

    async def _open(self) -> "tuple[asyncio.StreamWriter, asyncio.Task[bytes]]":
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                reader, writer = await self._connect()
        except (OSError, TimeoutError) as error:
            raise self._unavailable(type(error).__name__) from None
        writer.write(b"zINSTREAM\0")
        # Read from the start: an answer before clamd closes the connection would be lost.
        return writer, asyncio.create_task(reader.read(_ANSWER_BYTES_MAX))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self._address.rpartition(":")
        if host and port.isdigit():
            return await asyncio.open_connection(host, int(port))
        return await asyncio.open_unix_connection(self._address)

    async def _read_answer(self, answer: "asyncio.Task[bytes]") -> None:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                text = (await answer).rstrip(b"\0\n").decode(errors="replace")
        except ConnectionError as error:
            # clamd closes the connection when a file is too large, and its answer may be lost; or it has died. A probe
            # tells which.
            if self._is_probe:
                raise self._unavailable(type(error).__name__) from None
            await Scanner(self._address).check()
            raise _too_large() from None
        except (OSError, TimeoutError) as error:
            raise self._unavailable(type(error).__name__) from None
        if text.endswith("OK"):
            return
        if text.endswith("FOUND"):
            signature = text.removeprefix("stream: ").removesuffix(" FOUND")
            get_log().warning(Action.REJECTED, code=ProblemCode.INFECTED, signature=signature)
            raise Problem(422, ProblemCode.INFECTED, f"malware found: {signature}")
        if "size limit" in text:
            raise _too_large()
        raise self._unavailable(text[:100] or "it closed the connection")

    def _unavailable(self, reason: str) -> HeadraceError:
        return unreachable("clamd", self._address, reason, _HINT)


def _too_large() -> Problem:
    return Problem(
        413,
        ProblemCode.TOO_LARGE,
        "the file exceeds the limit of the virus scanner",
        hint="increase StreamMaxLength in clamd.conf",
    )
