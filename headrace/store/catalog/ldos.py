"""LDOs for the LDO service's list."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.schemas.digest import record_id
from headrace.schemas.events import Kind
from headrace.store.catalog.pagination import within
from headrace.store.catalog.views import public_ldo_id
from headrace.store.postgres import borrowed, statements

if TYPE_CHECKING:
    import asyncpg

    from headrace.store.postgres import Pool


@dataclass(frozen=True, slots=True)
class ListedLdo:
    """An LDO with the name and size of its clip, if one was ingested; times are microseconds."""

    digest: str
    captured_at_us: int
    ingested_at_us: int
    size_bytes: int
    clip_filename: str | None
    clip_size_bytes: int

    @property
    def public_id(self) -> str:
        """The public id."""
        return public_ldo_id(self.digest, self.captured_at_us)


class Ldos:
    """Lists LDOs. `scopes` are the caller's, 'site/source' or 'site/*'; None is everything.

    Raises CatalogUnavailableError or CatalogRefusedError.
    """

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        sql = statements("ldos")
        self._count = sql["count"].replace("{within}", within("wanted", "$1"))
        self._page = sql["page"].replace("{columns}", sql["columns"])
        self._page_within = (
            sql["page_within"].replace("{columns}", sql["columns"]).replace("{within}", within("wanted", "$3"))
        )
        self._clips = sql["clips"]

    async def count(self, scopes: Sequence[str] | None) -> int:
        """Return the number of LDOs within the scopes."""
        async with borrowed(self._pool, self._dsn) as connection:
            return int(await connection.fetchval(self._count, None if scopes is None else [*scopes]))

    async def page(self, skip: int, limit: int, scopes: Sequence[str] | None) -> list[ListedLdo]:
        """Return at most `limit` LDOs, newest first, after the first `skip`."""
        async with borrowed(self._pool, self._dsn) as connection:
            if scopes is None:
                rows = await connection.fetch(self._page, skip, limit)
            else:
                rows = await connection.fetch(self._page_within, skip, limit, [*scopes])
            clips = {row["clip_sha256"]: record_id(Kind.CLIP, row["clip_sha256"]) for row in rows if row["clip_sha256"]}
            clip_rows = await connection.fetch(self._clips, [*clips.values()])
        by_id = {row["record_id"]: row for row in clip_rows}
        return [_listed(row, by_id.get(clips.get(row["clip_sha256"]))) for row in rows]


def _listed(row: "asyncpg.Record", clip: "asyncpg.Record | None") -> ListedLdo:
    return ListedLdo(
        row["digest"],
        row["captured_at_us"],
        row["ingested_at_us"],
        row["size_bytes"],
        clip["filename"] if clip else None,
        clip["size_bytes"] if clip else 0,
    )
