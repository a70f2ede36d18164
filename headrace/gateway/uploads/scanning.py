"""Virus scanning by a clamd, while a file passes: its INSTREAM protocol (clamd(8)).

A file is taken only once clamd has said that it found nothing. While clamd is away no file is taken: to let files
through unscanned is for the operator to decide, by unsetting HEADRACE_GATEWAY_CLAMD.
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
    """Scans files by the clamd at host:port, or at a socket's path."""

    def __init__(self, place: str) -> None:
        self._place = place

    def begin(self) -> "Scan":
        """Return a scan of one file; nothing is sent yet."""
        return Scan(self._place)

    async def scan(self, body: bytes) -> None:
        """Scan a file that is whole in memory.

        Raises:
            Problem, HeadraceError: as `Scan.verdict`.
        """
        await self.begin().whole(body)

    async def check(self) -> None:
        """Find out whether clamd answers; for readiness.

        Raises:
            HeadraceError: it does not.
        """
        await Scan(self._place, is_asking=True).whole(b"")


async def scanned(scanner: Scanner | None, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks of a file as they pass the scanner, if there is one; it ends well once nothing was found.

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
    """One file's scan: `write` until the end, then `verdict`; or `abandon`, which may be called in any state."""

    def __init__(self, place: str, *, is_asking: bool = False) -> None:
        """`is_asking` is whether this is only to find out whether clamd answers."""
        self._place = place
        self._is_asking = is_asking
        self._writer: asyncio.StreamWriter | None = None
        self._answer: asyncio.Task[bytes] | None = None

    async def write(self, chunk: bytes) -> None:
        """Pass some bytes on.

        Raises:
            Problem: the file is too large for clamd (413). HeadraceError: clamd is away.
        """
        if self._writer is None or self._answer is None:
            self._writer, self._answer = await self._open()
        # Only a file that is too large has its answer before its end.
        if self._answer.done():
            await self._heard(self._answer)
        for start in range(0, len(chunk), CHUNK_BYTES_MAX):
            part = chunk[start : start + CHUNK_BYTES_MAX]
            await self._send(self._writer, struct.pack("!I", len(part)) + part)

    async def verdict(self) -> None:
        """Wait for what clamd says of the whole file.

        Raises:
            Problem: it found something (422), or the file is too large for it (413).
            HeadraceError: clamd is away, or gave no verdict.
        """
        if self._writer is None or self._answer is None:
            return  # an empty file
        await self._send(self._writer, struct.pack("!I", 0))
        await self._heard(self._answer)

    async def whole(self, body: bytes) -> None:
        """Do all of it for a file that is in memory; raises as `write` and `verdict`."""
        try:
            await self.write(body)
            await self.verdict()
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """End the connection; may be repeated."""
        if self._answer is not None:
            self._answer.cancel()
            with suppress(OSError, asyncio.CancelledError):
                await self._answer
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.transport.abort()  # who does not read would never let it be closed

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_S_MAX):
                writer.write(data)
                await writer.drain()
        except TimeoutError:
            raise self._away("it does not read") from None
        except OSError:
            return  # the answer says why

    async def _open(self) -> "tuple[asyncio.StreamWriter, asyncio.Task[bytes]]":
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                reader, writer = await self._connect()
        except (OSError, TimeoutError) as error:
            raise self._away(type(error).__name__) from None
        writer.write(b"zINSTREAM\0")
        # Listened for from the beginning: where clamd ends the connection, what it said before would be lost.
        return writer, asyncio.create_task(reader.read(_ANSWER_BYTES_MAX))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self._place.rpartition(":")
        if host and port.isdigit():
            return await asyncio.open_connection(host, int(port))
        return await asyncio.open_unix_connection(self._place)

    async def _heard(self, answer: "asyncio.Task[bytes]") -> None:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                said = (await answer).rstrip(b"\0\n").decode(errors="replace")
        except ConnectionError as error:
            # It ends the connection in the middle of a file that is too large, and its answer may be lost with it; or
            # it has died. Whether it answers now tells which.
            if self._is_asking:
                raise self._away(type(error).__name__) from None
            await Scanner(self._place).check()
            raise _too_large() from None
        except (OSError, TimeoutError) as error:
            raise self._away(type(error).__name__) from None
        if said.endswith("OK"):
            return
        if said.endswith("FOUND"):
            signature = said.removeprefix("stream: ").removesuffix(" FOUND")
            get_log().warning(Action.REJECTED, code=ProblemCode.INFECTED, signature=signature)
            raise Problem(422, ProblemCode.INFECTED, f"the virus scanner found {signature}")
        if "size limit" in said:
            raise _too_large()
        raise self._away(said[:100] or "it ended the connection")

    def _away(self, why: str) -> HeadraceError:
        return unreachable("clamd", self._place, why, _HINT)


def _too_large() -> Problem:
    return Problem(
        413,
        ProblemCode.TOO_LARGE,
        "the file is larger than the virus scanner takes",
        hint="raise StreamMaxLength in clamd.conf",
    )
