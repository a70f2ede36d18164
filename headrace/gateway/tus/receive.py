"""One PATCH: its bytes become parts, and a caller that is cut off loses nothing of what came."""

from contextlib import suppress
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from headrace.gateway.auth.guard import limited
from headrace.gateway.auth.principal import Principal
from headrace.gateway.auth.rate_limiter import mebibytes
from headrace.gateway.problems import Problem, ProblemCode
from headrace.gateway.services import Services
from headrace.gateway.tus.lock import Held
from headrace.gateway.tus.parts import PART_BYTES, PARTS_HELD_MAX, Writing, beyond_the_end
from headrace.gateway.tus.protocol import Checksum, body_bytes_of


async def receive(here: Services, request: Request, caller: Principal, hold: Held, checksum: Checksum | None) -> int:
    """Take the request's bytes into an upload that is held; returns how far it has come then.

    With a checksum they count together, or not at all.

    Raises:
        Problem: they go beyond the end (413), hash to something else (460), end too early (400), come too slowly (408)
            or are too many in an hour (429), or the upload was ended meanwhile (409).
        StoreUnavailable, StoreRefused, CatalogUnavailable, CatalogRefused.
    """
    upload = hold.upload
    left = upload.length_bytes - upload.offset_bytes
    expected = body_bytes_of(request.headers)
    if expected is not None and expected > left:
        raise beyond_the_end(upload.length_bytes)
    if expected == 0 or not left:
        return upload.offset_bytes
    metered = _Metered(request, here, caller, expected)
    await metered.begin()
    part_bytes = min(PART_BYTES, left if expected is None else expected)
    reserved = await here.budget.take(PARTS_HELD_MAX * part_bytes)
    try:
        writing = Writing(
            here.blobs, here.uploads, upload, hold.by, part_bytes=part_bytes, counts_at_once=checksum is None
        )
        await _take(request, metered, writing, checksum)
        return writing.offset_bytes
    finally:
        here.budget.give(reserved)


async def _take(request: Request, metered: "_Metered", writing: Writing, checksum: Checksum | None) -> None:
    digest: Any = None if checksum is None else checksum.new()
    try:
        async for chunk in request.stream():
            await metered.count(len(chunk))
            if digest is not None:
                digest.update(chunk)
            await writing.write(chunk)
        await writing.flush()
        if checksum is not None:
            checksum.check(digest)
            await writing.count()
    except BaseException as error:
        # What came is worth keeping, whatever ended it, unless only all of it could be checked.
        with suppress(Exception):
            await (writing.drop() if checksum is not None else writing.flush())
        if isinstance(error, ClientDisconnect):
            raise Problem(400, ProblemCode.BAD_REQUEST, "the body ended before it was whole") from None
        raise


class _Metered:
    """Counts what an upload brings against its caller's limit: at once where it is known, else as it comes."""

    def __init__(self, request: Request, here: Services, caller: Principal, expected: int | None) -> None:
        self._request = request
        self._limit = here.limits.upload_mib
        self._caller = caller
        self._expected = expected
        self._came = 0

    async def begin(self) -> None:
        if self._expected is not None:
            await limited(self._request, self._limit, self._caller, mebibytes(self._expected))

    async def count(self, size_bytes: int) -> None:
        before = mebibytes(self._came)
        self._came += size_bytes
        if self._expected is None and (more := mebibytes(self._came) - before):
            await limited(self._request, self._limit, self._caller, more)
